use std::path::PathBuf;

/// What to install, and where.
#[derive(Debug)]
pub(crate) struct InstallOptions {
    /// The runtime's CNI folder.
    pub(crate) cni_bin_dir: PathBuf,
    /// The folder that has the plugins; `None`: the one of this program.
    pub(crate) from: Option<PathBuf>,
    /// Also what pods of k8slan (Go) call.
    pub(crate) k8slan_go: bool,
    /// Say what would be done, and do nothing.
    pub(crate) dry_run: bool,
}

/// What to take away.
#[derive(Debug)]
pub(crate) struct UninstallOptions {
    /// The CNI folder; `None`: every one that plugins were put into.
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// The folder that has the plugins; `None`: the one of this program.
    pub(crate) from: Option<PathBuf>,
    /// Everything of k8slan, not only the plugins.
    pub(crate) purge: bool,
    /// Also while pods are attached.
    pub(crate) force: bool,
    /// Say what would be done, and do nothing.
    pub(crate) dry_run: bool,
}
