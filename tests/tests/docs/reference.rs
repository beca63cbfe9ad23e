//! docs/reference.md lists every key of every configuration: it is made from the types that read them.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use syn::{
    Attribute, Expr, ExprLit, Field, Fields, GenericArgument, Item, ItemStruct, Lit, Meta, PathArguments,
    Type,
};

/// A part of the page: its heading, what stands above its table, and the struct whose fields are its keys.
struct Part {
    heading: &'static str,
    text: &'static str,
    file: &'static str,
    name: &'static str,
}

const PARTS: &[Part] = &[
    Part {
        heading: "`LAN`, the object and the file: `spec`",
        text: "`apiVersion: lan.k8slan.io/v1beta1`, `kind: LAN`. An example: [nad-examples/k8slan/lan.yaml](../nad-examples/k8slan/lan.yaml).",
        file: "crates/lan/src/spec.rs",
        name: "LanSpec",
    },
    Part {
        heading: "`spec.spokeOverrides.<spoke>`",
        text: "",
        file: "crates/lan/src/spec.rs",
        name: "SpokeOverride",
    },
    Part {
        heading: "`spec.networkAttachments`",
        text: "",
        file: "crates/lan/src/spec.rs",
        name: "NetworkAttachments",
    },
    Part {
        heading: "`macvtap`",
        text: "Keys of a network configuration with `\"type\": \"macvtap\"`, beside the ones that every plugin has (below).",
        file: "plugins/macvtap/src/config.rs",
        name: "Config",
    },
    Part {
        heading: "`macvtap` as `k8slanveth`",
        text: "Keys of a network configuration with `\"type\": \"k8slanveth\"`, for pods that come from k8slan (Go): the spoke's veth stands in the pod. It is there where the component \
               `k8slan-go` is part of the installation ([migration](migration.md#k8slan-go)). Of the keys above it has `mtu`, `promiscMode` and those about IPv6.",
        file: "plugins/macvtap/src/k8slanveth.rs",
        name: "K8slanVeth",
    },
    Part {
        heading: "`macvtap` as `k8slanveth`: `routes[]`",
        text: "",
        file: "plugins/macvtap/src/k8slanveth.rs",
        name: "RouteOverVeth",
    },
    Part {
        heading: "`vlan-bridge`",
        text: "Keys of a network configuration with `\"type\": \"vlan-bridge\"`; those of the reference plugin `bridge` mean what they mean there.",
        file: "plugins/vlan-bridge/src/config.rs",
        name: "Config",
    },
    Part {
        heading: "`vlan-bridge`: `uplinks[]`",
        text: "",
        file: "plugins/vlan-bridge/src/config.rs",
        name: "Uplink",
    },
    Part {
        heading: "`vlan-bridge`: `gateway[]`",
        text: "",
        file: "plugins/vlan-bridge/src/config.rs",
        name: "Gateway",
    },
    Part {
        heading: "`ipam-pool`: the `ipam` section",
        text: "With `\"type\": \"ipam-pool\"`, in the network configuration of any main plugin.",
        file: "plugins/ipam-pool/src/network.rs",
        name: "Ipam",
    },
    Part {
        heading: "Ranges: `ipam.ranges[][]`, `spec.ranges[]` of a pool",
        text: "",
        file: "plugins/ipam-pool/src/range.rs",
        name: "RangeSpec",
    },
    Part { heading: "Routes: `ipam.routes[]`", text: "", file: "crates/cni/src/result.rs", name: "Route" },
    Part {
        heading: "`LANPool`, a file of a host: `spec`",
        text: "`/var/lib/k8slan/pools.d/<name>.yaml`, `apiVersion: lan.k8slan.io/v1beta1`, `kind: LANPool`: the fields of the object below, without its selectors, and these. \
               (`kind: IPPool`, the older form, is read with a warning.)",
        file: "plugins/ipam-pool/src/pool_document.rs",
        name: "OfFile",
    },
    Part {
        heading: "`LANPool`, the object: `spec`",
        text: "`apiVersion: lan.k8slan.io/v1beta1`, `kind: LANPool`: a [pool of the cluster](../plugins/ipam-pool/README.md#a-pool-of-the-cluster). Either `subnets` or `ranges`. \
               In the annotation `lan.k8slan.io/imported` stands what `kubectl k8slan import` added to `exclude` ([migration](migration.md#whereabouts)).",
        file: "crates/lan/src/pool/spec.rs",
        name: "LanPoolSpec",
    },
    Part {
        heading: "`LANPool`: `spec.ranges[]`",
        text: "",
        file: "crates/lan/src/pool/spec.rs",
        name: "PoolRange",
    },
    Part {
        heading: "What a runtime or Multus fills in: `runtimeConfig`",
        text: "For the capabilities that the network configuration declares. What counts more: `runtimeConfig`, then `args.cni`, then `CNI_ARGS`.",
        file: "crates/cni/src/document.rs",
        name: "RuntimeConfig",
    },
    Part {
        heading: "`args.cni`",
        text: "Multus merges the `cni-args` of a network selection into it. `ipam-pool` also reads `vm`, the name of a virtual machine.",
        file: "crates/cni/src/document.rs",
        name: "ArgsCni",
    },
    Part {
        heading: "The node: `/etc/k8slan/node.yaml`",
        text: "Optional; root's, and writable by nobody else.",
        file: "crates/node/src/config.rs",
        name: "NodeConfig",
    },
    Part {
        heading: "`policy.<pod namespace>` in node.yaml",
        text: "`\"*\"` stands for every namespace without an entry of its own. What an entry does not list may not be used.",
        file: "crates/node/src/policy.rs",
        name: "Allowed",
    },
];

/// What may stand in a value of a type.
const WORDS: &[(&str, &str)] = &[
    ("Attach", "`macvtap` or `veth`"),
    ("DeletionPolicy", "`WhenUnused` or `Force`"),
    ("Dns", "`nameservers`, `domain`, `search`, `options`"),
    ("Gateway", "object"),
    ("IfName", "name of a link"),
    ("InterfaceAddress", "address/prefix length"),
    ("IpAddr", "IP address"),
    ("IpNetwork", "address/prefix length"),
    ("MacAddr", "MAC address"),
    ("MasqueradeBackend", "`iptables` or `nftables`"),
    ("RouteOverVeth", "object"),
    ("MacvtapMode", "`passthru`, `bridge`, `private`, `vepa`"),
    ("Map", "object"),
    ("Mtu", "number, 68-65535"),
    ("NetworkAttachments", "object"),
    ("Order", "`oldest` or `lowest`"),
    ("PathBuf", "absolute path"),
    ("Policy", "object"),
    ("PoolOrder", "`Oldest` or `Lowest`"),
    ("PoolRange", "object"),
    ("PoolSticky", "`Auto`, `None`, `Pod` or `VM`"),
    ("Probe", "`true`, or `count`, `interval`, `wait`, `quarantine`"),
    ("RangeSpec", "object"),
    ("RawValue", "JSON"),
    ("Reservations", "owner: address, or list of addresses"),
    ("Route", "object"),
    ("SpokeName", "name of a spoke"),
    ("SpokeOverride", "object"),
    ("Sticky", "`none`, `pod` or `vm`"),
    ("String", "text"),
    ("Timespan", "duration, `30s`, `10m`, `1h`"),
    ("Uplink", "object"),
    ("VlanId", "number, 1-4094"),
    ("VlanSet", "VLANs: `\"10,20-29\"`, a list of numbers, `{id}`, `{minID, maxID}`"),
    ("bool", "`true` or `false`"),
    ("i64", "number"),
    ("u16", "number"),
    ("u32", "number"),
    ("u8", "number"),
];

const HEAD: &str = "# Reference

Every key of every configuration. Made from the types that read them by a test;
`UPDATE=1 cargo test -p k8slan-tests --test docs reference` writes it anew.

Keys without a default are marked *required*; `true` or `false` is false by default. In files and `policy`, a key that is not listed is an error, as is a key without a value in a pool file or `policy`; in a network configuration it is
ignored, as the CNI specification wants it.
";

/// The JSON key and the documentation of each field of a struct.
fn rows(item: &ItemStruct, defaults: &BTreeMap<String, String>, place: &str) -> Vec<[String; 3]> {
    let words = serde_words(&item.attrs);
    let Fields::Named(fields) = &item.fields else { panic!("{place} has no named fields") };
    fields.named.iter().filter_map(|field| row(field, &words, defaults, place)).collect()
}

/// A field's row; `of_struct`: what `#[serde(…)]` of its struct says.
fn row(
    field: &Field,
    of_struct: &BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
    place: &str,
) -> Option<[String; 3]> {
    let serde = serde_words(&field.attrs);
    let camel = of_struct.get("rename_all").is_some_and(|case| case == "camelCase");
    if serde.contains_key("flatten") {
        return None;
    }
    let ident = field.ident.as_ref().unwrap().to_string();
    let key = match serde.get("rename") {
        Some(name) => name.clone(),
        None if camel => camel_case(&ident),
        None => ident.clone(),
    };
    let optional = matches!(last(&field.ty).as_deref(), Some("Option"))
        || [&serde, of_struct].iter().any(|words| words.contains_key("default"));
    let mut meaning = documentation(&field.attrs);
    assert!(!meaning.is_empty(), "{place}: {ident} has no documentation");
    if let Some(default) = serde.get("default").and_then(|function| defaults.get(function)) {
        write!(meaning, " Default: `{default}`.").unwrap();
    }
    let meaning = if optional { meaning } else { format!("*Required.* {meaning}") };
    Some([format!("`{key}`"), words(&field.ty, place), meaning.replace('|', "\\|")])
}

/// `#[serde(…)]`: words with and without a value.
fn serde_words(attributes: &[Attribute]) -> BTreeMap<String, String> {
    let mut words = BTreeMap::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute
            .parse_nested_meta(|meta| {
                let name = meta.path.get_ident().unwrap().to_string();
                let value = if meta.input.peek(syn::Token![=]) {
                    meta.value()?.parse::<syn::LitStr>()?.value()
                } else {
                    String::new()
                };
                words.insert(name, value);
                Ok(())
            })
            .unwrap();
    }
    words
}

/// Functions that return a literal, by name: what `#[serde(default = "…")]` names.
fn literals(items: &[Item]) -> BTreeMap<String, String> {
    let functions = items.iter().filter_map(|item| if let Item::Fn(item) = item { Some(item) } else { None });
    functions
        .filter_map(|function| {
            let [syn::Stmt::Expr(value, None)] = function.block.stmts.as_slice() else { return None };
            let value = if let Expr::MethodCall(call) = value { &*call.receiver } else { value };
            let Expr::Lit(ExprLit { lit, .. }) = value else { return None };
            let text = match lit {
                Lit::Str(text) => text.value(),
                Lit::Int(number) => number.base10_digits().to_owned(),
                Lit::Bool(flag) => flag.value.to_string(),
                _ => return None,
            };
            Some((function.sig.ident.to_string(), text))
        })
        .collect()
}

fn documentation(attributes: &[Attribute]) -> String {
    let lines =
        attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
            let Meta::NameValue(pair) = &attribute.meta else { return None };
            let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &pair.value else { return None };
            Some(text.value().trim().to_owned())
        });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn camel_case(snake: &str) -> String {
    let mut parts = snake.split('_');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |mut camel, part| {
        camel.extend(part.chars().take(1).flat_map(char::to_uppercase));
        camel.push_str(&part[1..]);
        camel
    })
}

fn last(of: &Type) -> Option<String> {
    let Type::Path(path) = of else { return None };
    Some(path.path.segments.last()?.ident.to_string())
}

fn words(of: &Type, place: &str) -> String {
    let Type::Path(path) = of else { panic!("{place}: a type that is no path") };
    let segment = path.path.segments.last().unwrap();
    let name = segment.ident.to_string();
    let inner: Vec<&Type> = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .filter_map(|argument| if let GenericArgument::Type(of) = argument { Some(of) } else { None })
            .collect(),
        _ => Vec::new(),
    };
    match (name.as_str(), inner.as_slice()) {
        ("Option" | "Box", [one]) => words(one, place),
        ("Vec", [one]) => format!("list: {}", words(one, place)),
        ("BTreeMap", [_, value]) => format!("name: {}", words(value, place)),
        _ => match WORDS.iter().find(|(known, _)| *known == name) {
            Some((_, words)) => (*words).to_owned(),
            None => panic!("{place}: say in tests/tests/docs/reference.rs what may stand in a {name}"),
        },
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for part in PARTS {
        write!(page, "\n## {}\n", part.heading).unwrap();
        if !part.text.is_empty() {
            write!(page, "\n{}\n", part.text).unwrap();
        }
        page.push_str("\n| key | value | meaning |\n|---|---|---|\n");
        let source = fs::read_to_string(testnet::workspace().join(part.file)).unwrap();
        let items = syn::parse_file(&source).unwrap().items;
        let item = items.iter().find_map(|item| match item {
            Item::Struct(item) if item.ident == part.name => Some(item),
            _ => None,
        });
        let place = format!("{}: {}", part.file, part.name);
        let item = item.unwrap_or_else(|| panic!("there is no {place}"));
        for [key, value, meaning] in rows(item, &literals(&items), &place) {
            writeln!(page, "| {key} | {value} | {meaning} |").unwrap();
        }
    }
    page
}

#[test]
fn the_checked_in_reference_is_current() {
    let path = testnet::workspace().join("docs/reference.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/reference.md is not what the types say: run UPDATE=1 cargo test -p k8slan-tests --test docs reference"
    );
}
