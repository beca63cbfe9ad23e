//! Pools of the cluster, which the daemon keeps on the node: the same as a pool's file.

use std::collections::BTreeSet;

use lan::pool::{LanPoolSpec, ParsedPool, PoolOrder, PoolSticky};
use net_types::Timespan;
use node::{ClusterPool, Paths, SafeDir};

use crate::blocks::Blocks;
use crate::node_parts::parse_node_parts;
use crate::options::Sticky;
use crate::{AllowedNamespaces, Order, PoolFile, PoolFileError, Restrictions};

impl PoolFile {
    /// The pool of this name: its file, or where it has none the cluster's.
    ///
    /// # Errors
    /// There is neither, or what is wrong with it.
    pub(crate) fn find(paths: &Paths, name: &str) -> Result<Self, PoolFileError> {
        match Self::load(&paths.pools(), name) {
            Err(unknown @ PoolFileError::Unknown { .. }) => {
                Self::load_of_cluster(paths, name)?.ok_or(unknown)
            }
            file => file,
        }
    }

    /// The names of all pools, of files and of the cluster.
    ///
    /// # Errors
    /// A folder cannot be read, or is not trusted.
    pub(crate) fn all_names(paths: &Paths) -> Result<BTreeSet<String>, PoolFileError> {
        let mut names: BTreeSet<String> = Self::names(&paths.pools())?.into_iter().collect();
        names.extend(Self::names_of_cluster(paths)?);
        Ok(names)
    }

    /// The names of the cluster's pools.
    ///
    /// # Errors
    /// The folder cannot be read, or is not trusted.
    pub(crate) fn names_of_cluster(paths: &Paths) -> Result<Vec<String>, PoolFileError> {
        let names = SafeDir::open(&paths.cluster_pools())
            .and_then(|dir| dir.map_or(Ok(Vec::new()), |dir| dir.names()));
        let names = names.map_err(|error| PoolFileError::Read("*".to_owned(), error))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
    }

    /// Where nodes share the pool in blocks: those of this node. A pool's file has none, and who has fixed parts needs none.
    pub(crate) fn blocks(&self, paths: &Paths) -> Option<Blocks> {
        (self.of_cluster && !self.is_divided()).then(|| Blocks::new(paths, &self.name))
    }

    /// Reads a pool of the cluster; `None` if there is none of this name.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load_of_cluster(paths: &Paths, name: &str) -> Result<Option<Self>, PoolFileError> {
        let failed = |error| PoolFileError::Read(name.to_owned(), error);
        let Some(folder) = SafeDir::open(&paths.cluster_pools()).map_err(failed)? else { return Ok(None) };
        let read = ClusterPool::read(&folder, name);
        let Some(pool) = read.map_err(|error| PoolFileError::Object(name.to_owned(), error.to_string()))?
        else {
            return Ok(None);
        };
        Self::of_object(&pool).map(Some)
    }

    fn of_object(pool: &ClusterPool) -> Result<Self, PoolFileError> {
        let invalid = |message: String| PoolFileError::Object(pool.name.clone(), message);
        let spec: LanPoolSpec = serde_json::from_value(pool.spec.clone())
            .map_err(|error| invalid(pool.refusal.clone().unwrap_or(error.to_string())))?;
        let parsed = ParsedPool::parse(&spec).map_err(|error| invalid(error.to_string()))?;
        let allowed_namespaces = match &spec.namespace_selector {
            Some(selector) => AllowedNamespaces::selected(selector, pool.namespaces.as_ref()),
            None => spec.allowed_namespaces.clone().into(),
        };
        let file = Self {
            of_cluster: true,
            allowed_namespaces,
            reserved: pool.reserved.iter().filter_map(|reserved| reserved.owner.clone()).collect(),
            ..Self::of_spec(&pool.name, spec, &parsed, invalid)?
        };
        file.all_sets()?;
        Ok(file)
    }

    /// The pool that a `LANPool`'s specification says, whose addresses are `parsed`. `invalid` makes an error of what is wrong with it.
    ///
    /// # Errors
    /// It is not valid. Whether its ranges, exclusions and reservations fit together, [`Self::all_sets`] says.
    pub(crate) fn of_spec(
        name: &str,
        spec: LanPoolSpec,
        parsed: &ParsedPool,
        invalid: impl Fn(String) -> PoolFileError,
    ) -> Result<Self, PoolFileError> {
        let timespan = |field: &str, text: &str| {
            text.parse::<Timespan>().map_err(|error| invalid(format!("{field}: {error}")))
        };
        let nodes = Some(spec.nodes).filter(|nodes| !nodes.is_empty());
        let nodes = nodes.map(|nodes| parse_node_parts(name, parsed.parts(), nodes)).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            ranges: parsed.parts().to_vec(),
            nodes,
            host_scope: false,
            of_cluster: false,
            is_old_kind: false,
            routing_domain: spec.routing_domain.unwrap_or_default(),
            inventory: spec.inventory,
            restrictions: Restrictions { exclude: spec.exclude, reservations: Vec::new() },
            sticky: match spec.sticky {
                PoolSticky::Auto => None,
                PoolSticky::None => Some(Sticky::No),
                PoolSticky::Pod => Some(Sticky::Pod),
                PoolSticky::Vm => Some(Sticky::Vm),
            },
            cooldown: timespan("cooldown", &spec.cooldown)?,
            order: match spec.order {
                PoolOrder::Oldest => Order::Oldest,
                PoolOrder::Lowest => Order::Lowest,
            },
            quarantine: timespan("quarantine", &spec.quarantine)?,
            allowed_namespaces: spec.allowed_namespaces.into(),
            reserved: BTreeSet::new(),
        })
    }
}
