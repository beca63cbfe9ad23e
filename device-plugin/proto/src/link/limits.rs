//! What a message may be, before it is parsed.

/// Limits of the messages of one direction.
#[derive(Debug)]
pub(super) struct Limits {
    /// In bytes.
    pub(super) len: usize,
    /// How deep arrays and objects may stand in one another.
    depth: usize,
    /// How many values there may be. A few bytes of JSON can take a hundred times as many of memory.
    values: usize,
}

/// From the cluster's part. The largest LAN that the CRD allows has some 12,000 values, 8 levels deep.
pub(super) const FROM_CLUSTER: Limits = Limits { len: 1 << 20, depth: 64, values: 50_000 };
/// From the node's part; more than the status of any node.
pub(super) const FROM_NODE: Limits = Limits { len: 16 << 20, depth: 64, values: usize::MAX };

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("{0} bytes; at most {1} are taken")]
    Len(usize, usize),
    #[error("more than {0} values")]
    Values(usize),
    #[error("more than {0} levels")]
    Depth(usize),
}

impl Limits {
    /// Checks the length, and the nesting and number of values of a text that may be JSON, in one pass and without memory.
    ///
    /// # Errors
    /// The limit that it exceeds.
    pub(super) fn check(&self, text: &[u8]) -> Result<(), Excess> {
        if text.len() > self.len {
            return Err(Excess::Len(text.len(), self.len));
        }
        let (mut depth, mut values) = (0_usize, 0_usize);
        let (mut in_string, mut escaped) = (false, false);
        for byte in text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => (depth, values) = (depth + 1, values + 1),
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => values += 1,
                _ => {}
            }
            if depth > self.depth {
                return Err(Excess::Depth(self.depth));
            }
            if values > self.values {
                return Err(Excess::Values(self.values));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unfolds_is_refused_before_it_is_parsed() {
        let deep = r#"{"":"#.repeat(65);
        assert_eq!(FROM_CLUSTER.check(deep.as_bytes()), Err(Excess::Depth(64)));
        let wide = format!("[{}1]", "1,".repeat(50_000));
        assert_eq!(FROM_CLUSTER.check(wide.as_bytes()), Err(Excess::Values(50_000)));
        // What stands in a string is one value.
        let text = serde_json::to_string(&format!("{}\\\"{wide}", "[{".repeat(100))).unwrap();
        assert_eq!(FROM_CLUSTER.check(text.as_bytes()), Ok(()));
        assert!(matches!(FROM_CLUSTER.check(&vec![b'x'; (1 << 20) + 1]), Err(Excess::Len(..))));
        assert_eq!(FROM_NODE.check(wide.as_bytes()), Ok(()));
    }
}
