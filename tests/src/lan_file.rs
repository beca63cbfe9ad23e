use std::fmt::Write;

/// A LAN as the text of its file; the fields are those of the document's example.
#[derive(Clone, Debug)]
pub struct LanFile {
    /// `metadata.name`; the namespace is `k8slan-system`.
    pub name: String,
    /// The network namespace, `spec.ns`.
    pub ns: String,
    /// The network identifier, `spec.vni`.
    pub vni: u32,
    /// The underlay of every node, `spec.defaultVxlanDev`.
    pub dev: String,
    /// The names in `spec.spokes`.
    pub spokes: Vec<String>,
    /// Further lines of `spec`, each with its indentation of two blanks.
    pub more: String,
}

impl LanFile {
    /// A LAN of this name on the underlay `eth1`, its namespace named as itself.
    #[must_use]
    pub fn new(name: &str, vni: u32, spokes: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            ns: name.to_owned(),
            vni,
            dev: "eth1".to_owned(),
            spokes: spokes.iter().map(|&spoke| spoke.to_owned()).collect(),
            more: String::new(),
        }
    }

    /// Adds a line to `spec`, for example `mtu: 9000`.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        let _ = writeln!(self.more, "  {line}");
        self
    }

    /// The text of the file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: lan.k8slan.io/v1beta1\nkind: LAN\nmetadata:\n  name: {}\n  namespace: k8slan-system\nspec:\n  \
             ns: {}\n  bridge: br2\n  vxlan: vx2\n  vni: {}\n  defaultVxlanDev: {}\n{}",
            self.name, self.ns, self.vni, self.dev, self.more
        );
        text.push_str("  spokes:\n");
        for spoke in &self.spokes {
            let _ = writeln!(text, "  - {spoke}");
        }
        text
    }

    /// The path of the LAN's namespace on a node.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.ns)
    }
}
