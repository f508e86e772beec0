//! The host's links, by rtnetlink.

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

/// Names of the host's bridges.
pub async fn bridges() -> Result<Vec<String>, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|error| rtnetlink::Error::NamespaceError(format!("no netlink socket: {error}")))?;
    let connection = tokio::spawn(connection);
    let bridges = handle.link().get().execute().try_filter_map(async |link| Ok(bridge_name(&link))).try_collect().await;
    connection.abort();
    bridges
}

fn bridge_name(link: &LinkMessage) -> Option<String> {
    let is_bridge = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Bridge));
    let mut name = None;
    let mut bridge = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::LinkInfo(infos) => bridge = infos.iter().any(is_bridge),
            _ => {}
        }
    }
    name.filter(|_| bridge)
}
