use std::path::PathBuf;

/// What to install, and where.
#[derive(Debug)]
pub struct InstallOptions {
    /// The CNI folder of the container runtime.
    pub cni_bin_dir: PathBuf,
    /// The folder that has the plugins; `None`: the one of this program.
    pub from: Option<PathBuf>,
    /// Also install what pods of k8slan (Go) call.
    pub k8slan_go: bool,
    /// Only print what would be done.
    pub dry_run: bool,
}

/// What to remove.
#[derive(Debug)]
pub struct UninstallOptions {
    /// The CNI folder; `None`: every one that plugins were put into.
    pub cni_bin_dir: Option<PathBuf>,
    /// The folder that has the plugins; `None`: the one of this program.
    pub from: Option<PathBuf>,
    /// Everything of k8slan, not only the plugins.
    pub purge: bool,
    /// Remove even while pods are attached.
    pub force: bool,
    /// Only print what would be done.
    pub dry_run: bool,
}
