//! What the node asks about blocks, and what leaders write about pools, on the real server.

use controller::{NodeReader, PoolApi, PoolLeader, Rights};
use k8slan_tests::real_server::Program;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use pool_blocks::{
    Answer, Holder, Key, NodeName, NodeState, Object, Prefix, Request, ResourceVersion, Spec, Uid,
};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, eventually};
use tokio::runtime::Runtime;

use super::{LIMIT, Started, api, start};
use crate::cluster::check;

/// The server of custom resources has no nodes.
struct OneNode;

const STATE: NodeState = NodeState { uid: Uid::from_number(7), out_of_service: false };

impl NodeReader for OneNode {
    async fn read(&self, _: &NodeName) -> Result<Option<NodeState>, kube::Error> {
        Ok(Some(STATE))
    }
}

fn started(program: &Program) -> Result<Started, Stop> {
    let definitions =
        lan::pool::crds().into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    start(program, definitions)
}

fn spec(node: &str, term: u64) -> Spec {
    let holder = Holder { node: node.into(), uid: STATE.uid, term, fenced: false };
    Spec { holders: vec![holder], ..Spec::default() }
}

fn update(of: &Object, spec: Spec) -> Request {
    Request::Update(of.key.clone(), of.uid, of.version, spec)
}

fn delete(of: &Object) -> Request {
    Request::Delete(of.key.clone(), of.uid, of.version)
}

struct Asked<'a> {
    api: PoolApi<OneNode>,
    runtime: &'a Runtime,
}

impl Asked<'_> {
    fn ask(&self, request: &Request) -> Answer {
        self.runtime.block_on(self.api.answer(request))
    }

    fn write(&self, request: &Request) -> Result<Object, Stop> {
        match self.ask(request) {
            Answer::Written(object) => Ok(object),
            answer => Err(Stop::Failed(format!("{request:?}: {answer:?}"))),
        }
    }
}

pub(super) fn answers_what_nodes_ask(program: &Program) -> Outcome {
    let Started { client, background, .. } = &started(program)?;
    let runtime = background.runtime();
    let of = |rights| Asked { api: PoolApi::with_nodes(client.clone(), rights, OneNode), runtime };
    let (one, two) = (of(Rights::Node("worker1".into())), of(Rights::Node("worker2".into())));
    let leader = of(Rights::Leader);
    let block: Prefix = "192.168.1.16/32".parse().map_err(|error| Stop::Failed(format!("{error}")))?;
    let block = Key::block(&"office".into(), block);
    let create = Request::Create(block.clone(), spec("worker1", 0));
    let made = eventually(LIMIT, || one.write(&create).map_err(|error| format!("{error:?}")))?;
    check!(made.spec == spec("worker1", 0), "{made:?}");
    let second = Request::Create(block.clone(), spec("worker2", 0));
    check!(two.ask(&second) == Answer::AlreadyExists, "a lost race");
    check!(one.ask(&second) == Answer::Unknown, "another node's");

    // What changes nothing makes no version.
    let same = one.write(&update(&made, spec("worker1", 0)))?;
    check!(same == made, "{same:?}");
    let mut released = spec("worker1", 1);
    released.released = net_types::AddrSet::union(["192.168.1.16".parse()].into_iter().flatten());
    let next = one.write(&update(&made, released.clone()))?;
    check!(next.version != made.version && next.spec == released, "{next:?}");
    let kept = one.write(&update(&next, spec("worker1", 2)))?;
    check!(kept.spec == spec("worker1", 2), "what is released no more: {kept:?}");
    for late in [update(&made, spec("worker1", 9)), delete(&made)] {
        check!(one.ask(&late) == Answer::Conflict, "{late:?}");
    }
    let other = Object { uid: Uid::from_number(1), ..kept.clone() };
    check!(one.ask(&delete(&other)) == Answer::Conflict, "another of this name");

    check!(one.ask(&Request::Get(block.clone())) == Answer::Object(Some(kept.clone())), "it is read");
    check!(one.ask(&Request::ReadOwn) == Answer::Own(Some(STATE), vec![kept.clone()]), "its own");
    check!(two.ask(&Request::ReadOwn) == Answer::Own(Some(STATE), Vec::new()), "nothing of its own");
    check!(two.ask(&update(&kept, spec("worker1", 3))) == Answer::Unknown, "another node's");
    let contested = Spec { contested: vec!["worker2".into()], ..kept.spec.clone() };
    let contested = two.write(&update(&kept, contested))?;

    let address = Key::address(&"office".into(), "192.168.1.16".parse().unwrap());
    let owned = Spec { owner: Some("vm:default/web".into()), ..spec("worker1", 0) };
    let floating = one.write(&Request::Create(address, owned.clone()))?;
    let listed = one.ask(&Request::ListAddresses("office".into()));
    check!(listed == Answer::Addresses(vec![floating.clone()]), "{listed:?}");
    check!(
        two.ask(&Request::ListAddresses("home".into())) == Answer::Addresses(Vec::new()),
        "another pool's"
    );
    let joined = [owned.holders[0].clone(), spec("worker2", 0).holders[0].clone()];
    let joined = two.write(&update(&floating, Spec { holders: joined.into(), ..owned.clone() }))?;
    let left = one.write(&update(&joined, Spec { holders: Vec::new(), ..owned }))?;
    check!(left.spec.holders.is_empty(), "{left:?}");

    // The leader fences what is another's, and frees it.
    let mut fenced = contested.spec.clone();
    fenced.holders[0].fenced = true;
    let fenced = leader.write(&update(&contested, fenced))?;
    check!(leader.ask(&delete(&fenced)) == Answer::Deleted, "it is freed");
    check!(leader.ask(&delete(&fenced)) == Answer::NotFound, "it is gone");
    check!(leader.ask(&update(&fenced, fenced.spec.clone())) == Answer::NotFound, "it is gone");
    check!(one.ask(&Request::Get(block)) == Answer::Object(None), "it is gone");
    let nothing = Object { version: ResourceVersion(1), ..left };
    check!(leader.ask(&delete(&nothing)) == Answer::Conflict, "another version");
    Ok(())
}

pub(super) fn two_leaders_accept_one(program: &Program) -> Outcome {
    let Started { client, background, .. } = &started(program)?;
    let runtime = background.runtime();
    let pools = api(client, "lan.k8slan.io", "v1beta1", "LANPool", "lanpools", None);
    for (name, subnet) in
        [("a", "10.0.0.0/24"), ("b", "10.0.0.0/16"), ("c", "10.1.0.0/24"), ("d", "10.2.0.1/24")]
    {
        let object = json!({
            "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": name },
            "spec": { "subnets": [subnet] },
        });
        let apply =
            || runtime.block_on(pools.patch(name, &PatchParams::apply("test"), &Patch::Apply(&object)));
        eventually(LIMIT, || apply().map_err(|error| error.to_string()))?;
    }
    let leaders = ["worker1", "worker2"].map(|node| {
        let api = PoolApi::with_nodes(client.clone(), Rights::Leader, OneNode);
        PoolLeader::new(client.clone(), node, api)
    });
    let condition = |pool: &DynamicObject, kind: &str| -> Value {
        let conditions = pool.data["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().find(|found| found["type"] == kind).cloned().unwrap_or_default()
    };
    let mut reasons = Vec::new();
    for _ in 0..5 {
        let [first, second] = &leaders;
        let (first, second) = runtime.block_on(async { tokio::join!(first.accept(&[]), second.accept(&[])) });
        first.and(second)?;
        let now = ["a", "b", "c", "d"].map(|name| runtime.block_on(pools.get(name)));
        let now: Vec<DynamicObject> = now.into_iter().collect::<Result<_, _>>()?;
        let accepted = |pool: &&DynamicObject| condition(pool, "Accepted")["status"] == "True";
        check!(now[..2].iter().filter(accepted).count() <= 1, "two that overlap are accepted: {now:?}");
        reasons = now.iter().map(|pool| condition(pool, "Accepted")["reason"].clone()).collect();
    }
    let mut of_two = [reasons[0].clone(), reasons[1].clone()];
    of_two.sort_by_key(ToString::to_string);
    check!(json!(of_two) == json!(["Accepted", "Overlaps"]), "{reasons:?}");
    check!(json!(reasons[2..]) == json!(["Accepted", "Invalid"]), "{reasons:?}");
    let before = runtime.block_on(pools.get("c"))?;
    runtime.block_on(leaders[0].accept(&[]))?;
    let after = runtime.block_on(pools.get("c"))?;
    check!(before.metadata.resource_version == after.metadata.resource_version, "nothing new is not written");
    let other = json!({ "status": { "blockLengthV4": 28 } });
    let changed = runtime.block_on(pools.patch_status("c", &PatchParams::default(), &Patch::Merge(&other)));
    let error = changed.err().map(|error| error.to_string()).unwrap_or_default();
    check!(error.contains("blockLengthV4 is chosen once"), "{error}");
    Ok(())
}
