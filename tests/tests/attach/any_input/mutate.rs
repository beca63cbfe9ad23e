//! Valid texts, and what can go wrong with them on their way.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One thing that happens to a text.
#[derive(Clone, Debug)]
enum Edit {
    /// Another byte stands there.
    Replace(Index, u8),
    /// Some bytes are gone.
    Cut(Index, usize),
    /// Some bytes are there twice.
    Double(Index, usize),
    /// Something is put in.
    Insert(Index, &'static str),
    /// The rest is missing.
    Truncate(Index),
}

/// What means something in JSON, in YAML, in names and in numbers.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ": ",
    "\n",
    "\n- ",
    "\n  ",
    "\t",
    "---\n",
    "...\n",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!binary ",
    "? ",
    "| \n",
    "> \n",
    "#",
    "null",
    "true",
    "~",
    "-1",
    "0",
    "1e999",
    "0x1F",
    "18446744073709551616",
    "4294967296",
    "NaN",
    "\u{0}",
    "\u{feff}",
    "\\ud800",
    "\u{661}",
    "\u{1f600}",
    "../../",
    "/",
    "%s",
    "fd00::/64",
    "0.0.0.0/0",
    "999.1.1.1",
    "02:00:00:00:00:01",
    "\"name\":",
    "\"type\":\"macvtap\",",
    "\"ipam\":{},",
    "spec:\n",
    "spokes: []\n",
    "vni: 0\n",
];

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        1 => (at(), 1_usize..12).prop_map(|(at, length)| Edit::Cut(at, length)),
        1 => (at(), 1_usize..40).prop_map(|(at, length)| Edit::Double(at, length)),
        3 => (at(), select(TOKENS)).prop_map(|(at, token)| Edit::Insert(at, token)),
        1 => at().prop_map(Edit::Truncate),
    ]
}

/// One of these texts, with a few edits; now and then bytes that are of none.
pub(crate) fn mutated(texts: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (select(texts), vec(edit(), 0..6)).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        bytes
    });
    prop_oneof![15 => changed, 1 => vec(any::<u8>(), 0..200)]
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match self {
            Self::Replace(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Self::Cut(at, length) => {
                let at = place(at);
                let end = (at + length).min(bytes.len());
                bytes.drain(at..end);
            }
            Self::Double(at, length) => {
                let at = place(at);
                let again = bytes[at..(at + length).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            Self::Insert(at, token) => {
                let at = place(at);
                bytes.splice(at..at, token.bytes());
            }
            Self::Truncate(at) => bytes.truncate(place(at)),
        }
    }
}
