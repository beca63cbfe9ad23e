use std::error::Error as _;
use std::fmt;
use std::process::ExitStatus;

use serde_json::Value;

use crate::{Namespaces, bin_dir, finish_reading, program};

/// The parameters of a call to a CNI plugin, as a runtime gives them (CNI specification 1.1.0, section 2).
#[derive(Clone, Debug)]
pub struct CniCall {
    /// The container's ID, in `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; left out of the environment when `None`.
    pub netns: Option<String>,
    /// The interface's name in the container, in `CNI_IFNAME`.
    pub ifname: String,
    /// The pairs of `CNI_ARGS`, as text.
    pub args: String,
    /// `CNI_PATH`; `None` is the folder of the binaries under test, then Debian's `/usr/lib/cni`.
    pub path: Option<String>,
    /// What the plugin reads on stdin; text, so that a test can break it.
    pub config: String,
    /// A program and arguments that run the plugin, for example `strace`; empty otherwise.
    pub under: Vec<String>,
}

impl CniCall {
    /// The same call with a field of its configuration set; a configuration that is not an object stays.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        if let Ok(Value::Object(mut config)) = serde_json::from_str(&self.config) {
            config.insert(field.to_owned(), value);
            self.config = Value::Object(config).to_string();
        }
        self
    }
}

/// A plugin's error: the document that it wrote, or what it did instead.
#[derive(Clone, Debug)]
pub struct CniError {
    /// `code` of the error document; 0 if there is none.
    pub code: u64,
    /// `msg` of the error document, otherwise all of stdout.
    pub msg: String,
    /// `details` of the error document.
    pub details: String,
    /// How the process ended; `None` if it could not be run.
    pub status: Option<ExitStatus>,
    /// What it wrote on stderr.
    pub stderr: String,
}

impl CniError {
    /// `msg` and `details` in one line, for assertions.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}: {}", self.msg, self.details)
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CNI error {}: {}", self.code, self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        if let Some(status) = self.status.filter(|_| self.code == 0) {
            write!(f, " ({status}, stderr: {:?})", self.stderr.trim())?;
        }
        Ok(())
    }
}

impl std::error::Error for CniError {}

/// Runs a plugin with libcni's environment: its own and the parameters, with the configuration on stdin.
pub(crate) fn run(place: &Namespaces, plugin: &str, verb: &str, call: &CniCall) -> Result<Value, CniError> {
    let program = program(plugin);
    let default_path = || format!("{}:/usr/lib/cni", bin_dir().display());
    let mut command = match call.under.split_first() {
        Some((tracer, arguments)) => {
            let mut command = place.command(tracer);
            command.args(arguments).arg(&program);
            command
        }
        None => place.command(&program),
    };
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_ARGS", &call.args)
        .env("CNI_PATH", call.path.clone().unwrap_or_else(default_path));
    if let Some(netns) = &call.netns {
        command.env("CNI_NETNS", netns);
    }
    let broken = |what: String| CniError {
        code: 0,
        msg: format!("{}: {what}", program.display()),
        details: String::new(),
        status: None,
        stderr: String::new(),
    };
    let output = finish_reading(&mut command, call.config.as_bytes()).map_err(|error| {
        let source = error.source().map(|source| format!(": {source}"));
        broken(format!("{error}{}", source.unwrap_or_default()))
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = |code, msg: &str, details: &str| CniError {
        code,
        msg: msg.to_owned(),
        details: details.to_owned(),
        status: Some(output.status),
        stderr: stderr.clone(),
    };
    let document = match stdout.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text)
            .map_err(|e| error(0, &format!("stdout is no JSON ({e}): {text}"), ""))?,
    };
    if output.status.success() {
        return Ok(document);
    }
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    match document["code"].as_u64() {
        Some(code) => Err(error(code, text("msg"), text("details"))),
        None => Err(error(0, &stdout, "")),
    }
}
