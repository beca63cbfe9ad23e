use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use testnet::{Namespaces, Outcome, Stop};

/// What a service said when it was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The name that the service was started with.
    pub name: String,
    /// The caller's address as the service saw it.
    pub by: IpAddr,
}

/// Starts a service on a place: it tells each caller its name and his address, and then echoes.
///
/// # Errors
/// If the port cannot be listened on.
pub fn serve(place: &Namespaces, port: u16, name: &str) -> Outcome {
    let listener = place.run(|| TcpListener::bind(("0.0.0.0", port)))?;
    let name = name.to_owned();
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let name = name.clone();
            std::thread::spawn(move || echo(caller, &name));
        }
    });
    Ok(())
}

fn echo(mut caller: TcpStream, name: &str) {
    let Ok(peer) = caller.peer_addr() else { return };
    let mut buffer = [0; 64];
    let _ = caller.write_all(format!("{name} {}\n", peer.ip()).as_bytes());
    while let Ok(length @ 1..) = caller.read(&mut buffer) {
        if caller.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

/// Calls a service; none if nothing answers within `timeout`, or if there is no way to it.
///
/// # Errors
/// If somebody answers who is no such service: also who only refuses the port.
pub fn call(place: &Namespaces, to: SocketAddr, timeout: Duration) -> Result<Option<Heard>, Stop> {
    Ok(Session::open(place, to, timeout)?.map(|session| session.heard))
}

/// Calls the service at an address and port, and compares who answers, and by which address he sees the caller, with what is
/// expected; `None`: nobody is reached.
///
/// # Errors
/// If it is not as expected.
pub fn hears(
    place: &Namespaces,
    who: &str,
    (to, port): (IpAddr, u16),
    expected: Option<(&str, IpAddr)>,
) -> Outcome {
    let timeout = Duration::from_millis(if expected.is_some() { 3000 } else { 400 });
    let heard = call(place, SocketAddr::new(to, port), timeout)?;
    let got = heard.as_ref().map(|heard| (heard.name.as_str(), heard.by));
    if got == expected {
        return Ok(());
    }
    Err(Stop::Failed(format!("{who} calls {to}, port {port}: {expected:?} expected, got {got:?}")))
}

/// An established connection to a service.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    /// What the service said at its beginning.
    pub heard: Heard,
}

impl Session {
    /// Calls a service, and stays connected; otherwise as [`call`].
    ///
    /// # Errors
    /// As [`call`].
    pub fn open(place: &Namespaces, to: SocketAddr, timeout: Duration) -> Result<Option<Self>, Stop> {
        let no_way = [ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
        let mut stream = match place.run(|| TcpStream::connect_timeout(&to, timeout)) {
            Ok(stream) => stream,
            Err(error) if no_way.contains(&error.kind()) => return Ok(None),
            Err(error) => return Err(Stop::Failed(format!("calling {to}: {error}"))),
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut line = String::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        let heard = line
            .split_once(' ')
            .and_then(|(name, by)| Some(Heard { name: name.to_owned(), by: by.parse().ok()? }));
        let heard = heard.ok_or_else(|| Stop::Failed(format!("{to} greets with {line:?}")))?;
        Ok(Some(Self { stream, heard }))
    }

    /// Says something and hears it come back.
    ///
    /// # Errors
    /// If it does not within 20 seconds.
    pub fn say(&mut self, text: &[u8]) -> Outcome {
        self.stream.write_all(text)?;
        let mut heard = vec![0; text.len()];
        self.stream.read_exact(&mut heard)?;
        if heard == text {
            return Ok(());
        }
        Err(Stop::Failed(format!("said {text:?}, heard {heard:?}")))
    }
}
