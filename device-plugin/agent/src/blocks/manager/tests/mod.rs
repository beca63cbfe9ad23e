//! A node and an API server that a test plays.

use node::{BlockLength, ClusterPool};
use pool_blocks::{ClaimUser, Float, Holder, NodeState, Object, ResourceVersion, Spec, Uid};
use proto::agent_socket::FloatingOwner;
use serde_json::json;

use super::*;

mod claims;
mod edits;
mod files;
mod floating;
mod unused;

struct Site {
    manager: Manager,
    known: KnownPools,
    now: BootTime,
    objects: BTreeMap<Key, Object>,
    /// What others create just before this node's first create.
    races: usize,
    used: BTreeMap<String, Vec<String>>,
    /// The pools whose leases cannot be read.
    unreadable: Vec<&'static str>,
    /// The owner of whom each used address is that floats.
    floating: BTreeMap<String, String>,
    /// What another writes just before this node's next update of it.
    race: Option<(Key, Spec)>,
    /// Where the cluster's part puts an owner that has no address; `None`: nothing is free.
    room: Option<&'static str>,
    disk: Option<Disk>,
    granted: BTreeMap<PoolName, Grants>,
    replies: BTreeMap<ClaimId, ClaimAnswer>,
    requests: Vec<Request>,
    in_use: BTreeSet<String>,
    /// The pool as it is by now, where the node was not told of that.
    current: Option<ClusterPool>,
    /// Why nothing may be created.
    forbidden: Option<&'static str>,
    /// Why a claim owns no address.
    no_claim: Option<&'static str>,
    /// What somebody's finalizer keeps when it is deleted.
    kept: BTreeSet<Key>,
    notes: PoolNotes,
    /// What the pool's file hands out, and how the pool differs.
    file: Option<(&'static str, Option<&'static str>)>,
    /// Whether the API server answers.
    answers: bool,
    unanswered: Vec<(RequestId, Request)>,
    last: u64,
}

fn pool(spec: &str, v4: u8) -> ClusterPool {
    ClusterPool {
        name: "office".to_owned(),
        spec: json!({ "ranges": [{ "subnet": "10.0.0.0/16", "gateway": "10.0.255.254", "rangeStart": spec.split('-').next(), "rangeEnd": spec.split('-').nth(1) }] }),
        blocks: Some(BlockLength { v4, v6: 128 }),
        ..ClusterPool::default()
    }
}

fn manager(stored: Stored, known: &KnownPools) -> Manager {
    Manager::new("a".into(), "boot".to_owned(), stored, Arc::new(known.clone()), Arc::default())
}

impl Site {
    fn with(pool: ClusterPool, disk: Option<Disk>) -> Self {
        let known = KnownPools { pools: [(pool.name.clone(), pool)].into(), complete: true };
        let stored = Stored { disk: disk.clone(), ..Stored::default() };
        Self {
            manager: manager(stored, &known),
            known,
            now: BootTime::from_millis(1_000),
            objects: BTreeMap::new(),
            races: 0,
            used: BTreeMap::new(),
            unreadable: Vec::new(),
            floating: BTreeMap::new(),
            race: None,
            room: None,
            disk,
            granted: BTreeMap::new(),
            replies: BTreeMap::new(),
            requests: Vec::new(),
            in_use: BTreeSet::new(),
            current: None,
            forbidden: None,
            no_claim: None,
            kept: BTreeSet::new(),
            notes: PoolNotes::new(),
            file: None,
            answers: true,
            unanswered: Vec::new(),
            last: 0,
        }
    }

    fn new(spec: &str, v4: u8) -> Self {
        let mut own = Self::with(pool(spec, v4), None);
        own.event(Event::Connected);
        own.event(Event::Tick);
        own
    }

    fn usage(&self) -> Usage {
        let pools: serde_json::Map<_, _> = self
            .used
            .iter()
            .map(|(name, used)| (name.clone(), json!({ "used": used, "floating": self.floating })))
            .collect();
        let unreadable: BTreeMap<_, _> = self.unreadable.iter().map(|pool| (pool, "damaged")).collect();
        let file =
            self.file.map(|(addresses, differs)| json!({ "addresses": [addresses], "differs": differs }));
        let files: BTreeMap<_, _> = file.into_iter().map(|file| ("office", file)).collect();
        let printed = json!({ "pools": pools, "unreadable": unreadable, "files": files });
        Usage::parse(printed.to_string().as_bytes()).unwrap()
    }

    /// Does everything that follows from an event.
    fn event(&mut self, event: Event) {
        let mut queue = std::collections::VecDeque::from([event]);
        let mut rounds = 0;
        while let Some(event) = queue.pop_front() {
            rounds += 1;
            if rounds > 1000 {
                eprintln!("{event:?}");
            }
            assert!(rounds < 1010, "it does not settle");
            let mut effects = Vec::new();
            if self.manager.wants_usage(self.now, &event) {
                effects = self.manager.step(self.now, Event::Usage(self.usage()));
            }
            effects.extend(self.manager.step(self.now, event));
            for effect in effects {
                queue.extend(self.act(effect));
            }
        }
    }

    fn act(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send(id, request) => {
                self.requests.push(request.clone());
                if !self.answers {
                    self.unanswered.push((id, request));
                    return None;
                }
                Some(Event::Answer(id, self.answer(request)))
            }
            Effect::WriteDisk(version, disk) => {
                self.disk = Some(disk);
                Some(Event::Synced(version))
            }
            Effect::WriteGrants { pool, grants, unless_used } => {
                let before = grants::addresses(self.granted.get(&pool));
                let taken = before.without(&grants::addresses(Some(&grants)));
                let used = self.used.get(pool.as_str()).into_iter().flatten();
                // What is its owner's stays used, as its owner's.
                let own = |text: &String| {
                    let owner = self.floating.get(text);
                    grants
                        .floating
                        .iter()
                        .any(|one| one.address.to_string() == *text && Some(&one.owner) == owner)
                };
                let used = used.filter(|text| !own(text)).map(|text| text.parse().unwrap());
                let used = AddrSet::union(used).intersection(&taken);
                let result = if unless_used && !used.is_empty() {
                    GrantResult::Used(used)
                } else {
                    self.granted.insert(pool.clone(), grants);
                    GrantResult::Written
                };
                Some(Event::Granted(pool, result))
            }
            Effect::Reply(id, answer) => {
                self.replies.insert(id, answer);
                None
            }
            Effect::InUse(pools) => {
                self.in_use = pools;
                None
            }
            Effect::Replace(name, spec, addresses) => {
                let pool = self.known.pools.get_mut(&name).unwrap();
                assert_eq!(pool.spec, spec);
                (pool.in_place_of, pool.refusal) = (Some(addresses), None);
                Some(Event::Pools(Arc::new(self.known.clone())))
            }
            Effect::Notes(notes) => {
                self.notes = notes;
                None
            }
        }
    }

    fn write(&mut self, key: Key, spec: Spec, uid: Option<Uid>) -> Object {
        self.last += 1;
        let uid = uid.unwrap_or(Uid::from_number(u128::from(self.last)));
        let mut object = Object { key: key.clone(), uid, version: ResourceVersion(self.last), spec };
        let is_deleted = self.kept.contains(&key);
        object.spec.holders.iter_mut().for_each(|holder| holder.fenced |= is_deleted);
        self.objects.insert(key, object.clone());
        object
    }

    /// The object, after what another was quicker with.
    fn raced(&mut self, key: &Key) -> Option<&Object> {
        if let Some((_, spec)) = self.race.take_if(|(raced, _)| raced == key) {
            let uid = self.objects[key].uid;
            self.write(key.clone(), spec, Some(uid));
        }
        self.objects.get(key)
    }

    fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::Float(Float { user: Some(_), .. }) if self.no_claim.is_some() => {
                Answer::Forbidden(self.no_claim.unwrap().to_owned())
            }
            Request::Float(Float { pool, owner, create, address, .. }) => {
                let own = |object: &&Object| object.spec.owner.as_ref() == Some(&owner);
                let found = self.objects.values().find(own).cloned();
                let room = address.or(self.room.map(|text| text.parse().unwrap()));
                let spec = Spec { owner: Some(owner.clone()), ..Spec::default() };
                let make = |address| self.write(Key::address(&pool, address), spec, None);
                Answer::Object(found.or_else(|| room.filter(|_| create).map(make)))
            }
            Request::Pool(name) => {
                let pool = self.current.as_ref().or_else(|| self.known.pools.get(name.as_str()));
                // Without what only this node knows.
                let pool = pool.map(|pool| ClusterPool { accepted: true, ..pool.clone() });
                let current = pool.and_then(|pool| geometry(&pool).ok());
                Answer::Pool(current.map(|geometry| pool_blocks::CurrentPool {
                    lengths: geometry.lengths(),
                    addresses: geometry.addresses().clone(),
                }))
            }
            Request::ReadOwn => {
                let node = NodeState { uid: Uid::from_number(1 << 80), out_of_service: false };
                let own = self.objects.values().filter(|object| {
                    object.spec.holder(&"a".into()).is_some() || matches!(object.key.place, Place::Address(_))
                });
                Answer::Own(Some(node), own.cloned().collect())
            }
            Request::ListAddresses(_) => {
                let floating =
                    self.objects.values().filter(|object| matches!(object.key.place, Place::Address(_)));
                Answer::Addresses(floating.cloned().collect())
            }
            Request::Get(key) => Answer::Object(self.objects.get(&key).cloned()),
            Request::Create(..) if self.forbidden.is_some() => {
                Answer::Forbidden(self.forbidden.unwrap().to_owned())
            }
            Request::Create(key, spec) => {
                if self.races > 0 {
                    self.races -= 1;
                    let mut other = spec.clone();
                    other.holders[0].node = "b".into();
                    self.write(key.clone(), other, None);
                }
                match self.objects.contains_key(&key) {
                    true => Answer::AlreadyExists,
                    false => Answer::Written(self.write(key, spec, None)),
                }
            }
            Request::Update(key, uid, version, spec) => match self.raced(&key) {
                None => Answer::NotFound,
                Some(object) if (object.uid, object.version) != (uid, version) => Answer::Conflict,
                Some(_) => Answer::Written(self.write(key, spec, Some(uid))),
            },
            Request::Delete(key, uid, version) => match self.objects.get(&key) {
                None => Answer::NotFound,
                Some(object) if (object.uid, object.version) != (uid, version) => Answer::Conflict,
                Some(_) if self.kept.contains(&key) => {
                    let object = self.objects[&key].clone();
                    self.write(key, object.spec, Some(uid));
                    Answer::Unknown
                }
                Some(_) => {
                    self.objects.remove(&key);
                    Answer::Deleted
                }
            },
        }
    }

    fn claim(&mut self, id: ClaimId, address: Option<&str>) {
        self.claim_for(id, address, None);
    }

    /// `owner`: with `create`.
    fn claim_for(&mut self, id: ClaimId, address: Option<&str>, owner: Option<(&str, bool)>) {
        let address = address.map(|text| text.parse().unwrap());
        let shared = owner.is_some_and(|(name, _)| name.starts_with("vm:"));
        let owner = owner.map(|(name, create)| FloatingOwner {
            name: name.to_owned(),
            create,
            shared,
            user: name
                .strip_prefix("claim:")
                .map(|_| ClaimUser { interface: "net1".to_owned(), machine: None }),
        });
        let (pool, family) = ("office".to_owned(), Family::V4);
        self.event(Event::Claim(id, PoolClaim { pool, family, address, owner, pod: None }));
    }

    fn claim_by(&mut self, id: ClaimId, pod: &str) {
        let (pool, family, pod) = ("office".to_owned(), Family::V4, Some(pod.to_owned()));
        self.event(Event::Claim(id, PoolClaim { pool, family, address: None, owner: None, pod }));
    }

    /// Which floating addresses may be handed out, and to whom.
    fn floats(&self) -> Vec<String> {
        let grants = self.granted.get(&"office".into());
        let valid = grants.into_iter().flat_map(|grants| &grants.floating).filter(|one| one.until > 0);
        valid.map(|one| format!("{} {}", one.owner, one.address)).collect()
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now.after(Duration::from_secs(seconds));
        while let Some(next) = self.manager.wake_at(self.now).filter(|next| *next <= end) {
            self.now = next.max(self.now.after(Duration::from_millis(1)));
            self.event(Event::Tick);
        }
        self.now = end;
        self.event(Event::Tick);
    }

    fn granted(&self) -> String {
        grants::addresses(self.granted.get(&"office".into())).to_string()
    }

    fn change(&mut self, change: impl FnOnce(&mut ClusterPool)) {
        change(self.known.pools.get_mut("office").unwrap());
        self.event(Event::Pools(Arc::new(self.known.clone())));
    }

    fn use_all(&mut self) {
        let granted = grants::addresses(self.granted.get(&"office".into()));
        self.used.insert("office".to_owned(), granted.iter().map(|range| range.to_string()).collect());
    }
}
