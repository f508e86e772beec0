use std::net::IpAddr;

use clap::{Args, Subcommand};
use vmferry_core::{
    id::HostName,
    network::NetworkName,
    policy::{Direction, GroupName, InvalidRule, Rule},
};

use super::{Affinity, OwnLimits};

/// What can be done with one instance.
#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Shows one instance: state, host, disks, interfaces
    Show(Which),
    /// What a vif may send and receive
    #[command(subcommand)]
    Policy(Policy),
    /// Which logical network a vif is on
    #[command(subcommand)]
    Network(Network),
    /// What its live migrations may cost it
    #[command(subcommand)]
    Limits(OwnLimits),
    /// Which other instances it shall be with on a host, and which apart from
    #[command(subcommand)]
    Affinity(Affinity),
}

/// Which instance is meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Name, UUID, or the beginning of one of them
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
    /// The host it is on, if several have one of that name
    #[arg(long, value_name = "HOST")]
    pub(crate) from: Option<HostName>,
}

/// Which of an instance's vifs is meant.
#[derive(Debug, Args)]
pub(crate) struct WhichVif {
    /// Which instance is meant.
    #[command(flatten)]
    pub(crate) instance: Which,
    /// The vif, if it has several
    #[arg(long = "vif", value_name = "MAC")]
    pub(crate) mac: Option<String>,
}

/// What can be done with the policies of an instance's vifs.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Shows what each vif may send and receive
    Show(Which),
    /// Says what a vif may send and receive, in the place of what was said before
    ///
    /// It is written into the metadata of the instance's definition, is filtered at once if the instance runs, and moves with it.
    /// A vif with a policy can send with no other MAC address than its own, offer no addresses by DHCP and advertise no routes.
    Set(Box<SetPolicy>),
    /// Lets a vif send and receive anything again
    Unset(UnsetPolicy),
}

const RULES: &str = "\
A RULE is PROTOCOL[:PORTS][@PEER]: what is let through.
  PROTOCOL  any, tcp, udp, icmp, icmpv6, or a number
  PORTS     80, or 8000-8080; the destination's
  PEER      192.0.2.7, 192.0.2.0/24, 2001:db8::/32, or group=NAME
A direction without a rule is open. In one that has a rule, only what a rule lets through
passes, and the answers to what passed the other way.

Examples:
  vmferry instance policy set web --address 192.0.2.7
  vmferry instance policy set web --address 192.0.2.7 --address 2001:db8::7 \\
    --group web --ingress tcp:80 --ingress tcp:22@192.0.2.0/24 --ingress icmp
  vmferry instance policy set db --vif 52:54:00:a0:00:01 --ingress tcp:5432@group=web";

/// `instance policy set`
#[derive(Debug, Args)]
#[command(after_help = RULES)]
pub(crate) struct SetPolicy {
    /// Which vif is meant.
    #[command(flatten)]
    pub(crate) vif: WhichVif,
    /// An address that the guest may use; may be repeated. Without: any
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(crate) addresses: Vec<IpAddr>,
    /// A group that it is a member of; may be repeated
    #[arg(long = "group", value_name = "NAME")]
    pub(crate) groups: Vec<GroupName>,
    /// What it may receive; may be repeated
    #[arg(long, value_name = "RULE", value_parser = ingress)]
    pub(crate) ingress: Vec<Rule>,
    /// What it may send; may be repeated
    #[arg(long, value_name = "RULE", value_parser = egress)]
    pub(crate) egress: Vec<Rule>,
}

fn ingress(text: &str) -> Result<Rule, InvalidRule> {
    Rule::parse(Direction::Ingress, text)
}

fn egress(text: &str) -> Result<Rule, InvalidRule> {
    Rule::parse(Direction::Egress, text)
}

/// `instance policy unset`
#[derive(Debug, Args)]
pub(crate) struct UnsetPolicy {
    /// Which vif is meant.
    #[command(flatten)]
    pub(crate) vif: WhichVif,
    /// Forgets all that was said of its vifs, their networks too, also if it cannot be read
    #[arg(long, conflicts_with = "mac")]
    pub(crate) all: bool,
}

/// What can be done with the networks of an instance's vifs.
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Says which logical network a vif is on
    ///
    /// Every host has its own way to it: see `[[network]]` in the configuration of its agent. Needed where the bridge does not tell;
    /// it changes nothing of what the vif is plugged into now.
    Set(SetNetwork),
    /// Forgets it again
    Unset(WhichVif),
}

/// `instance network set`
#[derive(Debug, Args)]
pub(crate) struct SetNetwork {
    /// Which vif is meant.
    #[command(flatten)]
    pub(crate) vif: WhichVif,
    /// The network's name
    #[arg(value_name = "NETWORK")]
    pub(crate) network: NetworkName,
}
