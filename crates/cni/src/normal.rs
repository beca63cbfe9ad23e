//! Normalises a document as Go's decoder in the reference plugins reads it: a member that is `null` counts as absent,
//! and a member's name counts in any case.

use std::borrow::Cow;

/// The list for GC: `null` is an empty list there.
const VALID: &[u8] = b"cni.dev/valid-attachments";

/// The names of the protocol's own fields.
pub const PROTOCOL_NAMES: &[&str] = &[
    "address",
    "advmss",
    "args",
    "bandwidth",
    "capabilities",
    "cni",
    "cni.dev/valid-attachments",
    "cniVersion",
    "containerID",
    "deviceID",
    "dns",
    "domain",
    "dst",
    "gateway",
    "gw",
    "ifname",
    "interface",
    "interfaces",
    "ipRanges",
    "ipam",
    "ips",
    "mac",
    "mtu",
    "name",
    "nameservers",
    "options",
    "pciID",
    "portMappings",
    "prevResult",
    "priority",
    "routes",
    "runtimeConfig",
    "sandbox",
    "scope",
    "search",
    "socketPath",
    "table",
    "type",
    "vm",
];

/// Blanks members that are `null`, and rewrites names that differ only in case from one of `names` or of the
/// protocol's. Every other byte keeps its place, so that the position in an error message fits the original text.
///
/// A text that is not JSON stays as it is.
pub(crate) fn normal<'a>(json: &'a [u8], names: &[&[&str]]) -> Cow<'a, [u8]> {
    let edits = edits(json, names);
    if edits.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(json).is_err() {
        return json.into();
    }
    let mut text = json.to_vec();
    for (at, with) in edits {
        let (length, with) = match with {
            With::Spaces(length) => (length, None),
            With::Name(name) => (name.len(), Some(name.as_bytes())),
        };
        if let Some(place) = text.get_mut(at..at + length) {
            match with {
                Some(with) => place.copy_from_slice(with),
                None => place.fill(b' '),
            }
        }
    }
    text.into()
}

/// A replacement of the same length as what it replaces.
enum With<'a> {
    Spaces(usize),
    Name(&'a str),
}

/// The object or list that encloses the current position.
enum Around {
    Object {
        /// The offset at which the member begins.
        member: usize,
        /// Start and end of the member's name without quotation marks; `None` before it.
        name: Option<(usize, usize)>,
        /// The offset of the comma behind the last member that stays.
        comma: Option<usize>,
    },
    List,
}

fn edits<'n>(json: &[u8], names: &[&[&'n str]]) -> Vec<(usize, With<'n>)> {
    let mut edits = Vec::new();
    let mut around: Vec<Around> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'{' => around.push(Around::Object { member: at + 1, name: None, comma: None }),
            b'[' => around.push(Around::List),
            b'}' | b']' => drop(around.pop()),
            b',' => {
                if let Some(Around::Object { member, name, comma }) = around.last_mut() {
                    (*member, *name, *comma) = (at + 1, None, Some(at));
                }
            }
            b'"' => {
                let end = end_of_text(json, at);
                if let Some(Around::Object { name: name @ None, .. }) = around.last_mut() {
                    *name = Some((at + 1, end));
                    let given = json.get(at + 1..end).unwrap_or_default();
                    edits.extend(known(given, names).map(|known| (at + 1, With::Name(known))));
                }
                at = end;
            }
            b'n' if json.get(at..).is_some_and(|rest| rest.starts_with(b"null")) => {
                let end = at + 4;
                if let Some(Around::Object { member, name: Some((from, to)), comma }) = around.last_mut()
                    && !json.get(*from..*to).unwrap_or_default().eq_ignore_ascii_case(VALID)
                {
                    let spaces = json.get(end..).unwrap_or_default();
                    let spaces = spaces.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                    edits.push((*member, With::Spaces(end - *member)));
                    match json.get(end + spaces) {
                        // The comma behind the member goes too, so that the next one follows the one before.
                        Some(b',') => {
                            let next = end + spaces + 1;
                            edits.push((next - 1, With::Spaces(1)));
                            (*member, at) = (next, next - 1);
                            if let Some(Around::Object { name, .. }) = around.last_mut() {
                                *name = None;
                            }
                        }
                        _ => {
                            edits.extend(comma.map(|comma| (comma, With::Spaces(1))));
                            at = end - 1;
                        }
                    }
                } else {
                    at = end - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    edits
}

/// The offset of the closing quotation mark of the text that begins at `at`.
fn end_of_text(json: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&byte) = json.get(end) {
        match byte {
            b'"' => return end,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    json.len()
}

/// The name that is meant, if it is written differently.
fn known<'n>(given: &[u8], names: &[&[&'n str]]) -> Option<&'n str> {
    let all = || names.iter().copied().chain([PROTOCOL_NAMES]).flatten().copied();
    let same = all().find(|name| given.eq_ignore_ascii_case(name.as_bytes()))?;
    let exact = all().any(|name| given == name.as_bytes());
    (!exact).then_some(same)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const NAMES: &[&[&str]] = &[&["macspoofchk", "rangeStart"], &["isGateway"]];

    fn read(text: &str) -> String {
        let normal = normal(text.as_bytes(), NAMES);
        assert_eq!(normal.len(), text.len());
        String::from_utf8(normal.into_owned()).unwrap()
    }

    fn value(text: &str) -> Value {
        serde_json::from_str(&read(text)).unwrap()
    }

    #[test]
    fn members_that_are_null_are_left_out() {
        for (given, expected) in [
            (r#"{"a":null}"#, json!({})),
            (r#"{ "a" : null , "b" : null }"#, json!({})),
            (r#"{"a":1,"b":null}"#, json!({"a": 1})),
            (r#"{"a":null,"b":1}"#, json!({"b": 1})),
            (r#"{"a":1,"b":null,"c":null}"#, json!({"a": 1})),
            (r#"{"a":1,"b":null,"c":2,"d":null}"#, json!({"a": 1, "c": 2})),
            (
                r#"{"a":{"b":null},"c":[{"d":null,"e":"null"},null]}"#,
                json!({"a": {}, "c": [{"e": "null"}, null]}),
            ),
            (r#"{"a\"":null,"\\":null,"b":"\",null"}"#, json!({"b": "\",null"})),
            (r#"{"cni.dev/valid-attachments":null}"#, json!({"cni.dev/valid-attachments": null})),
            ("null", json!(null)),
        ] {
            assert_eq!(value(given), expected, "{given}");
        }
    }

    #[test]
    fn names_count_in_any_case() {
        let given =
            r#"{"macSpoofChk":true,"RANGESTART":"x","IPAM":{"Type":"isgateway"},"Unknown":1,"isGateway":2}"#;
        let meant =
            r#"{"macspoofchk":true,"rangeStart":"x","ipam":{"type":"isgateway"},"Unknown":1,"isGateway":2}"#;
        assert_eq!(read(given), meant);
    }

    #[test]
    fn what_is_no_json_stays() {
        for text in
            ["", "{", r#"{"a":null,}"#, r#"{"a":null"#, r#"{"a":nullx}"#, r#"{"MTU""#, "[null", "\"", "\"\\"]
        {
            assert_eq!(read(text), text);
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            2 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::from),
            1 => any::<i32>().prop_map(Value::from),
            1 => "[a-z{}\\[\\],:\"\\\\ ]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\,]{0,3}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn without_null(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                let members = members.into_iter().filter(|(_, value)| !value.is_null());
                Value::Object(members.map(|(name, value)| (name, without_null(value))).collect())
            }
            Value::Array(all) => all.into_iter().map(without_null).collect(),
            other => other,
        }
    }

    proptest! {
        #[test]
        fn any_document_without_null(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let normal = normal(text.as_bytes(), &[]);
            let read: Value = serde_json::from_slice(&normal).unwrap();
            prop_assert_eq!(read, without_null(value));
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(b"{}[]\",:\\nul ".to_vec())], 0..40)) {
            let normal = normal(&bytes, NAMES);
            prop_assert_eq!(normal.len(), bytes.len());
        }
    }
}
