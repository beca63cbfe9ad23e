//! The socket on which the cluster's part speaks to the privileged one, in the hands of somebody who took that part over.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::{Daemon, Outcome, Stop, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{SOON, Site, document};
use crate::cluster::two_processes::LINK;

/// Between two more connections: the processor stays free for the flood.
const CROWD_INTERVAL: Duration = Duration::from_millis(5);

/// A probe of the container `node` may take three times as long.
const PROBE: Duration = Duration::from_secs(3);
/// The limit of the container `node`, in KiB.
const MEMORY: u64 = 256 << 10;
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(12);
/// What is sent of it.
const PUTS: usize = 100_000;

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        who_breaks_the_rules_harms_nobody,
        a_flood_keeps_no_probe_waiting,
        a_second_cluster_part_evicts_nobody
    ]
}

fn connect(site: &Site) -> Result<UnixStream, Stop> {
    let stream = site.node.run(|| UnixStream::connect(LINK))?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

fn message(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn read(stream: &mut UnixStream) -> std::io::Result<Value> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut text = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(std::io::Error::other)
}

/// A connection on which all is said as it should be so far.
fn connected(site: &Site) -> Result<UnixStream, Stop> {
    let mut stream = connect(site)?;
    let hello = read(&mut stream)?;
    check!(hello["hello"]["version"].is_string(), "{hello}");
    stream.write_all(&message(&json!({ "hello": { "version": "0.1.0" } })))?;
    Ok(stream)
}

fn put_lan(number: usize, spec: Value) -> Vec<u8> {
    let lan = json!({ "key": format!("flood/l{number}"), "generation": 1, "spec": spec });
    message(&json!({ "change": { "number": number, "change": { "put": { "lan": lan } } } }))
}

/// A LAN of another node: to build thousands of them is no matter of the link.
fn elsewhere(number: usize) -> Value {
    json!({
        "ns": format!("f{number}"), "bridge": "br", "vxlan": "vx", "vni": 1 + number,
        "vxlanDevMap": { "worker9": "eth1" }, "spokes": [format!("s{number}")],
    })
}

fn started(site: &Site) -> Result<Daemon, Stop> {
    let node = site.node_part()?;
    eventually(SOON, || match site.agent("readyz") {
        Ok(answer) if answer.status.success() && site.node.run(|| std::path::Path::new(LINK).exists()) => {
            Ok(())
        }
        other => Err(format!("{other:?}\n{}", node.log())),
    })?;
    Ok(node)
}

/// The longest time that a probe took.
fn probe(site: &Site) -> Result<Duration, Stop> {
    let mut longest = Duration::ZERO;
    for question in ["livez", "readyz"] {
        let start = Instant::now();
        let answer = site.agent(question)?;
        check!(answer.status.success(), "{question}: {answer:?}");
        longest = longest.max(start.elapsed());
    }
    Ok(longest)
}

fn resident(node: &Daemon) -> Result<u64, Stop> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", node.id()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A cluster's part that nobody took over finds the node as it should be.
fn works(site: &Site, node: &Daemon) -> Outcome {
    site.server.put("lans", document(&["pod1"]));
    let cluster = site.cluster_part()?;
    eventually(12 * SOON, || match (site.get("/readyz"), site.node.list("/var/lib/k8slan/lans")) {
        (text, lans) if text.starts_with("HTTP/1.1 200") && lans == ["k8slan-system.lan-test.yaml"] => Ok(()),
        (text, lans) => Err(format!("{text}\n{} LANs\n{}\n{}", lans.len(), node.log(), cluster.log())),
    })?;
    site.condition("k8slan-system/lan-test", "Ready", "True", "")?;
    check!(cluster.terminate()?.success(), "it ends well");
    Ok(())
}

fn who_breaks_the_rules_harms_nobody() -> Outcome {
    let site = Site::without_kubelet()?;
    let node = started(&site)?;
    let too_long = [&(1_u32 << 20).saturating_add(1).to_be_bytes()[..], &[b' '; 4096]].concat();
    let nested = [&100_000_u32.to_be_bytes()[..], &[b'['; 100_000]].concat();
    let no_json = [&4_u32.to_be_bytes()[..], b"{][}"].concat();
    let hello = message(&json!({ "hello": { "version": "0.1.0" } }));
    let climbing =
        message(&json!({ "change": { "number": 1, "change": { "remove": { "lan": "../etc/passwd" } } } }));
    for (words, bytes) in [
        ("a message of 1048577 bytes", too_long),
        ("a message of 4294967295 bytes", vec![0xff; 64]),
        ("does not know", no_json),
        ("more than 64 levels", nested),
        ("does not know", [hello.clone(), climbing].concat()),
        ("out of order", hello.repeat(2)),
        ("out of order", message(&json!({ "ask": { "number": 1 } }))),
    ] {
        // One after the other: after an offence the socket rests for a second.
        let said = || node.log().matches(words).count();
        let before = said();
        let mut stream = connect(&site)?;
        // The other end may have closed by then.
        let _ = stream.write_all(&bytes);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        eventually(SOON, || if said() > before { Ok(()) } else { Err(format!("{words}: {}", node.log())) })?;
        probe(&site)?;
    }
    // What has the right form and a wrong name is refused, and the connection goes on.
    let mut stream = connected(&site)?;
    let pod = json!({ "uid": "../../etc/passwd", "vm": { "vm": "x" } });
    stream.write_all(&message(&json!({ "change": { "number": 1, "change": { "put": { "pod": pod } } } })))?;
    let nack = loop {
        let said = read(&mut stream)?;
        if said["nack"].is_object() {
            break said;
        }
    };
    check!(nack["nack"]["reason"].as_str().is_some_and(|text| text.contains("not a pod's UID")), "{nack}");
    check!(site.node.list("/run/k8slan/owners").is_empty(), "{:?}", site.node.list("/run/k8slan/owners"));
    drop(stream);
    works(&site, &node)
}

fn a_flood_keeps_no_probe_waiting() -> Outcome {
    let site = Site::without_kubelet()?;
    let node = started(&site)?;
    let before = resident(&node)?;
    let stream = connected(&site)?;
    let stop = AtomicBool::new(false);
    let (longest, most) = std::thread::scope(|scope| -> Result<(Duration, u64), Stop> {
        // Nothing of what it is told is read by the one thread, all by the other one.
        let (mut writer, mut reader) = (stream.try_clone()?, stream.try_clone()?);
        let flood = scope.spawn(move || {
            (0..PUTS)
                .take_while(|&number| writer.write_all(&put_lan(number, elsewhere(number))).is_ok())
                .count()
        });
        let acks = scope.spawn(move || std::iter::from_fn(|| read(&mut reader).ok()).count());
        // Connections that stay, and more than the socket's queue holds.
        let crowd = scope.spawn(|| {
            let mut held = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let another = site.node.run(|| -> std::io::Result<UnixStream> {
                    let socket = UnixStream::connect(LINK)?;
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                });
                held.extend(another.ok().filter(|_| held.len() < 500));
                std::thread::sleep(CROWD_INTERVAL);
            }
            held.len()
        });
        let (start, mut longest, mut most) = (Instant::now(), Duration::ZERO, 0);
        while start.elapsed() < FLOOD {
            longest = longest.max(probe(&site)?);
            most = most.max(resident(&node)?);
        }
        stop.store(true, Ordering::Relaxed);
        stream.shutdown(std::net::Shutdown::Both)?;
        let (sent, acks, held) = (flood.join().unwrap(), acks.join().unwrap(), crowd.join().unwrap());
        println!(
            "{sent} LANs sent, {acks} answers, {held} more connections; the slowest probe {longest:?}; {before} KiB before, {most} at most"
        );
        check!(sent > 5_000 && held > 100, "that was no flood");
        Ok((longest, most))
    })?;
    check!(longest < PROBE, "a probe took {longest:?}");
    check!(most < MEMORY, "{most} KiB");
    let kept = site.node.list("/var/lib/k8slan/lans").len();
    check!(kept <= 10_000, "{kept} LANs");

    // Somebody who reads nothing at all.
    let mut stream = eventually(2 * SOON, || connected(&site).map_err(|error| format!("{error:?}")))?;
    let ask = message(&json!({ "ask": { "number": 1 } }));
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let asked = (0..PUTS).take_while(|_| stream.write_all(&ask).is_ok()).count();
    check!(asked < PUTS, "every question was taken, with nobody to read the answers");
    let (longest, most) = (probe(&site)?, resident(&node)?);
    check!(longest < PROBE && most < MEMORY, "{longest:?}, {most} KiB");
    drop(stream);

    // Long names, of which no answer repeats anything, and what takes a hundred times its length of memory.
    let long = message(
        &json!({ "change": { "number": 1, "change": { "remove": { "pod": "\u{7f}".repeat(1_000_000) } } } }),
    );
    let unfolds = put_lan(0, json!({ "a": vec![json!({ "": { "": 1 } }); 100_000] }));
    for flood in [long, unfolds] {
        let mut stream = eventually(2 * SOON, || connected(&site).map_err(|error| format!("{error:?}")))?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        let sent = (0..300).take_while(|_| stream.write_all(&flood).is_ok()).count();
        let (longest, most) = (probe(&site)?, resident(&node)?);
        check!(longest < PROBE && most < MEMORY, "{sent} messages: {longest:?}, {most} KiB");
    }
    works(&site, &node)
}

fn a_second_cluster_part_evicts_nobody() -> Outcome {
    let site = Site::without_kubelet()?;
    let node = started(&site)?;
    let mut first = connected(&site)?;
    let mut second = connect(&site)?;
    let refusal = read(&mut second)?;
    let reason = refusal["refused"]["reason"].as_str().unwrap_or_default();
    check!(reason.contains("another process is connected"), "{refusal}");
    // A cluster's part says so, and has what it wants when the first one is gone.
    site.server.put("lans", document(&["pod1"]));
    let cluster = site.cluster_part()?;
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 503") && text.contains("another process is connected") => Ok(()),
        text => Err(format!("{text}\n{}", cluster.log())),
    })?;
    first.write_all(&message(&json!({ "ask": { "number": 7 } })))?;
    let answer = loop {
        let said = read(&mut first)?;
        if said["answer"].is_object() {
            break said;
        }
    };
    check!(answer["answer"]["number"] == 7, "{answer}");
    drop(first);
    eventually(SOON, || match site.get("/readyz") {
        text if text.starts_with("HTTP/1.1 200") => Ok(()),
        text => Err(format!("{text}\n{}\n{}", node.log(), cluster.log())),
    })?;
    Ok(())
}
