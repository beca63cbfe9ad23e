use testnet::{Namespaces, Stop, program};

/// What the daemon of a node counts under this name, as it says on its agent socket.
///
/// # Errors
/// It does not answer, or has nothing of that name.
pub fn metric(node: &Namespaces, name: &str) -> Result<f64, Stop> {
    let program = program("k8slan-device-plugin");
    let metrics = node.exec(&[&program.to_string_lossy(), "agent", "metrics"])?;
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = values.next().ok_or_else(|| Stop::Failed(format!("no {name} in {metrics}")))?;
    Ok(value.parse()?)
}
