use testnet::{Outcome, Pod};

/// Makes a pod a router with the rules of a file for `iptables-restore`: a stand-in for a router's own software.
///
/// # Errors
/// If the kernel refuses.
pub fn route(pod: &Pod<'_>, rules: &str) -> Outcome {
    for (setting, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ] {
        pod.run(|| std::fs::write(format!("/proc/sys/{setting}"), value))?;
    }
    let file = format!("/run/{}.rules", pod.container());
    pod.node().write(&file, rules)?;
    pod.exec(&["iptables-legacy-restore", &file])?;
    Ok(())
}
