use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Error, Request};

impl<C> Request<C> {
    /// Refuses a request for `bandwidth` or `portMappings`, which main plugins leave to another plugin of the list. A
    /// runtime sends them only where the network configuration declares the capability for this plugin, and without
    /// an error nobody would notice that nothing was done.
    ///
    /// # Errors
    /// The runtime asks for one of the two.
    pub fn left_to_others(&self) -> Result<(), Error> {
        let asked = &self.runtime_config;
        for (capability, given, plugin) in
            [("bandwidth", &asked.bandwidth, "bandwidth"), ("portMappings", &asked.port_mappings, "portmap")]
        {
            if let Some(given) = given.as_deref().filter(|given| asks_for_something(given)) {
                return Err(Error::Capability { capability, given: given.get().to_owned(), plugin });
            }
        }
        Ok(())
    }
}

/// Whether there is anything in it: runtimes send empty lists and rates of 0 where a pod has none.
fn asks_for_something(given: &RawValue) -> bool {
    fn something(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(all) => all.iter().any(something),
            Value::Object(all) => all.values().any(something),
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Bool(_) | Value::String(_) => true,
        }
    }
    serde_json::from_str(given.get()).is_ok_and(|value| something(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_for_by_zeros_and_empty_lists() {
        for (text, wanted) in [
            ("null", false),
            ("[]", false),
            ("{}", false),
            (r#"{"ingressRate": 0, "ingressBurst": 0.0, "egressRate": null}"#, false),
            (r#"{"ingressRate": 0, "egressRate": 1000000}"#, true),
            (r#"[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]"#, true),
            (r#""10M""#, true),
        ] {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            assert_eq!(asks_for_something(&raw), wanted, "{text}");
        }
    }
}
