//! Finds a plugin's own message in what Multus, the runtime and the kubelet put around it.

/// The texts that runtimes and Multus put before a plugin's message; the message follows the last of them: `plugin
/// type="…" failed (add): `, and for a network that is not a list `error adding container to network "…": `.
const PLUGIN_MESSAGE_PREFIXES: [&str; 2] = ["failed (add): ", "error adding container to network "];

/// The plugin's message in an event of the kubelet.
pub(super) fn plugin_message(message: &str) -> Option<&str> {
    let ends = PLUGIN_MESSAGE_PREFIXES.iter().filter_map(|words| Some(message.rfind(words)? + words.len()));
    let rest = &message[ends.max()?..];
    // The network's name, in quotation marks.
    match rest.strip_prefix('"').and_then(|rest| rest.split_once("\": ")) {
        Some((_, words)) => Some(words),
        None => Some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_words_are_found_in_what_is_around_them() {
        let multus = "Failed to create pod sandbox: plugin type=\"multus\" name=\"multus\" failed (add): [default/web:vlan44]: error adding \
                      container to network \"vlan44\": ";
        for (before, words) in [
            (multus.to_owned(), "nothing to attach to: the configuration has no deviceID"),
            (format!("{multus}plugin type=\"macvtap\" failed (add): "), "spoke pod2 is in use by a/b: wait"),
            (format!("{multus}plugin type=\"macvtap\" failed (add): "), "device \"pod2\": is neither"),
            ("plugin type=\"macvtap\" failed (add): ".to_owned(), "no \"a\": b"),
        ] {
            assert_eq!(plugin_message(&format!("{before}{words}")), Some(words));
        }
        assert_eq!(plugin_message("no route to host"), None);
    }
}
