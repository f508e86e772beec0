//! What an instance's vifs may send and receive.

use serde::Serialize;
use vmferry_core::instance::{Instance, Vif};

use super::table::facts;

/// A line for each thing that is allowed.
pub(crate) fn show(guest: &Instance) -> String {
    facts(guest.vifs.iter().flat_map(|vif| {
        let mut rows = vec![("vif", vif.mac.clone())];
        rows.extend(vif.network.as_ref().map(|network| ("network", network.to_string())));
        match &vif.policy {
            None => rows.push(("policy", "none, it may send and receive anything".into())),
            Some(policy) => {
                if policy.addresses.is_empty() {
                    rows.push(("address", "any".into()));
                }
                rows.extend(policy.addresses.iter().map(|address| ("address", address.to_string())));
                rows.extend(policy.groups.iter().map(|group| ("group", group.to_string())));
                if policy.rules.is_empty() {
                    rows.push(("rule", "none, both directions are open".into()));
                }
                rows.extend(policy.rules.iter().map(|rule| ("rule", rule.to_string())));
            }
        }
        rows
    }))
}

/// `{"name": …, "vifs": […]}`
pub(crate) fn document(guest: &Instance) -> impl Serialize + use<'_> {
    #[derive(Serialize)]
    struct Document<'a> {
        id: String,
        name: &'a str,
        host: &'a str,
        vifs: &'a [Vif],
    }
    Document { id: guest.id.to_string(), name: &guest.name, host: guest.host.as_str(), vifs: &guest.vifs }
}
