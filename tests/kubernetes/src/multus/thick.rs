//! The thick one: a daemon on the node, and a plugin that only carries the runtime's call to it (`pkg/server`).

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::{Call, Environment};

const FOLDER: &str = "/run/multus";
const SOCKET: &str = "/run/multus/multus.sock";
/// How often the plugin tries to reach the daemon.
const INTERVAL: Duration = Duration::from_millis(200);

/// What the plugin sends: its whole environment, and its input.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    env: Environment,
    config: Value,
}

/// The plugin. An ADD waits for the daemon; a DEL that finds none has succeeded.
pub(super) fn plugin(verb: &str, environment: &Environment, configuration: &Value) -> Result<String, String> {
    let limit = if verb == "DEL" { Duration::ZERO } else { Duration::from_secs(45) };
    match ask(limit, &json!({ "env": environment, "config": configuration })) {
        Err(_) if verb == "DEL" => Ok(String::new()),
        answer => answer.map_err(|error| format!("Cmd{verb} (shim): {error}")),
    }
}

fn ask(limit: Duration, request: &Value) -> Result<String, String> {
    let asked = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(SOCKET) {
            Ok(stream) => break stream,
            Err(error) if asked.elapsed() >= limit => return Err(format!("{SOCKET}: {error}")),
            Err(_) => std::thread::sleep(INTERVAL),
        }
    };
    let said = |error: std::io::Error| format!("{SOCKET}: {error}");
    stream
        .write_all(request.to_string().as_bytes())
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .map_err(said)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(said)?;
    serde_json::from_slice::<Result<String, String>>(&answer)
        .map_err(|error| format!("no answer: {error}"))?
}

/// The daemon. It ends by a signal.
pub(super) fn daemon() -> Result<(), String> {
    // What an earlier one left.
    if Path::new(FOLDER).exists() {
        std::fs::remove_dir_all(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
    }
    std::fs::create_dir_all(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
    let listener = UnixListener::bind(SOCKET).map_err(|error| format!("{SOCKET}: {error}"))?;
    for stream in listener.incoming() {
        let stream = stream.map_err(|error| format!("{SOCKET}: {error}"))?;
        // Goes on to its end, also if the plugin is gone that asked.
        std::thread::spawn(move || serve(stream).inspect_err(|error| eprintln!("{error}")));
    }
    Ok(())
}

fn serve(mut stream: UnixStream) -> Result<(), String> {
    let mut input = Vec::new();
    stream.read_to_end(&mut input).map_err(|error| error.to_string())?;
    let answer =
        serde_json::from_slice::<Request>(&input).map_err(|error| error.to_string()).and_then(|request| {
            let verb = request.env.get("CNI_COMMAND").cloned().unwrap_or_default();
            let answer = super::handle(&verb, request.config, &Call::to_daemon(&request.env)?);
            eprintln!("{verb} {:?}: {answer:?}", request.env.get("CNI_ARGS"));
            answer
        });
    let answer = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
    stream.write_all(&answer).map_err(|error| error.to_string())
}
