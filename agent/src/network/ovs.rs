//! Open vSwitch, by its own client of its database. Values are typed; the protocol is the client's.

use std::{io, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};
use vmferry_core::{
    network::{HeldKind, HeldLink, Hindrance, Holder, LinkName, VifId, VlanId},
    reason::Reason,
};

use self::row::{Reply, Row};
use super::judge::OvsBridge;
use crate::{hypervisor::Fault, storage::tool::Tool};

mod row;

/// The key in `external_ids` of what is VMFerry's.
const MARK: &str = "vmferry";
/// How long Open vSwitch may take to apply a change. It takes milliseconds.
const APPLY: Duration = Duration::from_secs(10);
const DATABASE: &str = "Open_vSwitch";

/// The database of the Open vSwitch that runs on this host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ovs<'a> {
    pub(super) database: &'a Path,
}

/// A port that a vif is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port<'a> {
    pub(super) bridge: &'a LinkName,
    pub(super) name: &'a LinkName,
    pub(super) vlan: Option<VlanId>,
    pub(super) vif: VifId,
}

impl Ovs<'_> {
    /// Whether it runs, or has died: where it was stopped in good order its socket is gone.
    pub(super) fn is_there(&self) -> bool {
        self.database.exists()
    }

    /// The bridge, or why a guest cannot be plugged into it now. Reads only.
    pub(super) async fn bridge(&self, bridge: &LinkName) -> Result<OvsBridge, Hindrance> {
        let missing = |why: String| Hindrance::OvsMissing { why };
        let operations = [
            json!({"op": "select", "table": "Bridge", "where": [["name", "==", bridge]], "columns": ["datapath_type"]}),
            json!({"op": "select", "table": "Interface", "where": [["name", "==", bridge]], "columns": ["mtu"]}),
        ];
        let replies = self.transact(&operations).await.map_err(missing)?;
        let row = first(&replies, 0).ok_or_else(|| Hindrance::OvsBridgeMissing { bridge: bridge.clone() })?;
        // Its database may answer while nobody acts on it. The switch itself listens here, for each bridge.
        let switch = self.database.with_file_name(format!("{bridge}.mgmt"));
        UnixStream::connect(&switch)
            .await
            .map_err(|error| missing(format!("ovs-vswitchd does not listen at {}: {error}", switch.display())))?;
        let mtu = first(&replies, 1).and_then(|interface| interface.mtu.first());
        Ok(OvsBridge { mtu, userspace: row.datapath_type == "netdev" })
    }

    /// Makes the port, or makes it as it should be, and waits until the switch has it.
    pub(super) async fn add(&self, port: &Port<'_>) -> Result<(), Fault> {
        let holder = Holder::Vif(port.vif);
        let found = self.find(port.name).await?;
        if let Some(found) = found.as_ref().filter(|row| row.mark() != Some(holder.clone())) {
            let whose = found.mark().map_or_else(|| "somebody else".to_owned(), |holder| holder.to_string());
            let message = format!(
                "Open vSwitch has a port {} that is {whose}'s; find out whose it is, and remove it (`ovs-vsctl del-port {}`)",
                port.name, port.name
            );
            return Err(Fault::new(Reason::NetworkFailed, message));
        }
        let there = match &found {
            Some(found) => self.has(port.bridge, found).await?,
            None => false,
        };
        if found.is_some() && !there {
            self.remove(port.name, &holder).await?;
        }
        let operations = if there { update(port, &holder) } else { insert(port, &holder) };
        let failed = |why: String| {
            let message = format!("cannot make port {} in Open vSwitch bridge {}: {why}", port.name, port.bridge);
            Fault::new(Reason::NetworkFailed, message)
        };
        let replies = self.transact(&operations).await.map_err(failed)?;
        let wanted = replies.last().and_then(|reply| reply.rows.first()).and_then(|row| row.next_cfg).unwrap_or(0);
        self.applied(port, wanted).await.map_err(failed)
    }

    /// Removes a port that is this holder's. What is not there, or is not its, is left alone.
    pub(super) async fn remove(&self, name: &LinkName, holder: &Holder) -> Result<(), Fault> {
        let Some(found) = self.find(name).await?.filter(|row| row.mark().as_ref() == Some(holder)) else {
            return Ok(());
        };
        let operations = [
            json!({
                "op": "mutate", "table": "Bridge", "where": [["ports", "includes", found.uuid]],
                "mutations": [["ports", "delete", found.uuid]],
            }),
            next(),
        ];
        let removed = self.transact(&operations).await;
        removed.map(drop).map_err(|why| {
            let message = format!("cannot remove port {name} from Open vSwitch: {why}");
            Fault::new(Reason::NetworkFailed, message)
        })
    }

    /// Every port that carries the mark.
    pub(super) async fn held(&self) -> Result<Vec<HeldLink>, Fault> {
        let operation = json!({"op": "select", "table": "Port", "where": [], "columns": ["name", "external_ids"]});
        let replies = self.transact(&[operation]).await.map_err(unreadable)?;
        let rows = replies.iter().flat_map(|reply| &reply.rows);
        let held = rows.filter(|row| row.external_ids.get(MARK).is_some()).filter_map(|row| {
            Some(HeldLink { name: row.name.parse().ok()?, kind: HeldKind::OvsPort, holder: row.mark(), used_by: None })
        });
        Ok(held.collect())
    }

    async fn find(&self, port: &LinkName) -> Result<Option<Row>, Fault> {
        let columns = ["_uuid", "name", "external_ids"];
        let operation = json!({"op": "select", "table": "Port", "where": [["name", "==", port]], "columns": columns});
        let replies = self.transact(&[operation]).await.map_err(unreadable)?;
        Ok(replies.into_iter().flat_map(|reply| reply.rows).next())
    }

    async fn has(&self, bridge: &LinkName, port: &Row) -> Result<bool, Fault> {
        let conditions = json!([["name", "==", bridge], ["ports", "includes", port.uuid]]);
        let operation = json!({"op": "select", "table": "Bridge", "where": conditions, "columns": ["name"]});
        let replies = self.transact(&[operation]).await.map_err(unreadable)?;
        Ok(first(&replies, 0).is_some())
    }

    /// Waits until the switch has done what the database says.
    async fn applied(&self, port: &Port<'_>, wanted: i64) -> Result<(), String> {
        let operations = [
            json!({"op": "select", "table": DATABASE, "where": [], "columns": ["cur_cfg"]}),
            json!({"op": "select", "table": "Interface", "where": [["name", "==", port.name]], "columns": ["error"]}),
        ];
        let deadline = Instant::now() + APPLY;
        loop {
            let replies = self.transact(&operations).await?;
            if first(&replies, 0).and_then(|row| row.cur_cfg).is_some_and(|current| current >= wanted) {
                let error = first(&replies, 1).and_then(|row| row.error.first());
                return error.map_or(Ok(()), Err);
            }
            if Instant::now() >= deadline {
                return Err(format!("ovs-vswitchd has not applied it within {APPLY:?}; see whether it runs"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// All of them, or none.
    async fn transact(&self, operations: &[Value]) -> Result<Vec<Reply>, String> {
        // Found at once, and without a word about files that are not there.
        if let Err(error) = UnixStream::connect(self.database).await {
            let what =
                if error.kind() == io::ErrorKind::NotFound { "there is no".to_owned() } else { error.to_string() };
            return Err(format!("{what} {}", self.database.display()));
        }
        let transaction = Value::from_iter([Value::from(DATABASE)].into_iter().chain(operations.iter().cloned()));
        let server = format!("unix:{}", self.database.display());
        let arguments = ["--timeout=10".to_owned(), "transact".to_owned(), server, transaction.to_string()];
        let answer = Tool::new("ovsdb-client").args(arguments).run().await;
        // With its own words, and without the transaction.
        let answer = answer.map_err(|failed| format!("ovsdb-client {}", failed.how))?;
        let replies: Vec<Option<Reply>> =
            serde_json::from_str(&answer).map_err(|error| format!("ovsdb-client's answer: {error}"))?;
        let replies = replies.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        match replies.iter().find_map(|reply| reply.error.as_ref().map(|error| (error, &reply.details))) {
            Some((error, details)) => Err(format!("{error}: {}", details.as_deref().unwrap_or("without a word"))),
            None => Ok(replies),
        }
    }
}

fn unreadable(why: String) -> Fault {
    Fault::new(Reason::NetworkFailed, format!("Open vSwitch cannot be asked: {why}"))
}

fn first(replies: &[Reply], index: usize) -> Option<&Row> {
    replies.get(index)?.rows.first()
}

/// Tells the switch that there is something to do, and lets it say when it is done.
fn next() -> Value {
    json!({"op": "mutate", "table": DATABASE, "where": [], "mutations": [["next_cfg", "+=", 1]]})
}

fn what_was_next() -> Value {
    json!({"op": "select", "table": DATABASE, "where": [], "columns": ["next_cfg"]})
}

fn tag(vlan: Option<VlanId>) -> Value {
    vlan.map_or_else(|| json!(["set", []]), |vlan| json!(u16::from(vlan)))
}

fn map(entries: &[(&str, String)]) -> Value {
    json!(["map", entries])
}

fn port_ids(holder: &Holder) -> Value {
    map(&[(MARK, holder.to_string())])
}

/// What those look at who steer the switch: the same as libvirt writes.
fn interface_ids(vif: VifId, holder: &Holder) -> Value {
    map(&[
        ("iface-id", vif.interface_id().to_string()),
        ("iface-status", "active".to_owned()),
        ("attached-mac", vif.mac.to_string().to_lowercase()),
        ("vm-uuid", vif.instance.to_string()),
        (MARK, holder.to_string()),
    ])
}

fn insert(port: &Port<'_>, holder: &Holder) -> Vec<Value> {
    let interface = json!({"name": port.name, "external_ids": interface_ids(port.vif, holder)});
    let row = json!({
        "name": port.name, "interfaces": ["named-uuid", "interface"], "tag": tag(port.vlan), "external_ids": port_ids(holder),
    });
    vec![
        json!({"op": "insert", "table": "Interface", "uuid-name": "interface", "row": interface}),
        json!({"op": "insert", "table": "Port", "uuid-name": "port", "row": row}),
        json!({
            "op": "mutate", "table": "Bridge", "where": [["name", "==", port.bridge]],
            "mutations": [["ports", "insert", ["named-uuid", "port"]]],
        }),
        next(),
        what_was_next(),
    ]
}

fn update(port: &Port<'_>, holder: &Holder) -> Vec<Value> {
    let this = json!([["name", "==", port.name]]);
    let row = json!({"tag": tag(port.vlan), "external_ids": port_ids(holder)});
    let interface = json!({"external_ids": interface_ids(port.vif, holder)});
    vec![
        json!({"op": "update", "table": "Port", "where": this, "row": row}),
        json!({"op": "update", "table": "Interface", "where": this, "row": interface}),
        next(),
        what_was_next(),
    ]
}
