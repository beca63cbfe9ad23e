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
    /// The pool of this name: the cluster's, if it is in charge or there is no file, else the file.
    ///
    /// # Errors
    /// There is neither, or what is wrong with it.
    pub(crate) fn find(paths: &Paths, name: &str) -> Result<Self, PoolFileError> {
        Self::check_name(name)?;
        let object = Self::object(paths, name)?;
        if let Some(object) = object.as_ref().filter(|object| object.is_in_charge()) {
            return Self::of_object(object);
        }
        match (Self::load(&paths.pools(), name), object) {
            (Err(PoolFileError::Unknown { .. }), Some(object)) => Self::of_object(&object),
            (file, _) => file,
        }
    }

    /// Whether the cluster's pool of this name is in charge.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn is_the_clusters(paths: &Paths, name: &str) -> Result<bool, PoolFileError> {
        Ok(Self::object(paths, name)?.is_some_and(|object| object.is_in_charge()))
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

    /// The pool of the cluster as the daemon keeps it; `None` if there is none of this name.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn object(paths: &Paths, name: &str) -> Result<Option<ClusterPool>, PoolFileError> {
        let failed = |error| PoolFileError::Read(name.to_owned(), error);
        let Some(folder) = SafeDir::open(&paths.cluster_pools()).map_err(failed)? else { return Ok(None) };
        let read = ClusterPool::read(&folder, name);
        read.map_err(|error| PoolFileError::Object(name.to_owned(), error.to_string()))
    }

    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_object(pool: &ClusterPool) -> Result<Self, PoolFileError> {
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
            in_charge: pool.is_in_charge(),
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
            in_charge: true,
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
