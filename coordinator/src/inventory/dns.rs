//! Hosts from DNS: the SRV records of one name.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use backon::{ConstantBuilder, Retryable as _};
use domain::{
    base::{
        Name, Rtype,
        iana::Rcode,
        name::{FromStrError, ToName},
    },
    rdata::{AllRecordData, Srv},
    resolv::{
        StubResolver,
        stub::conf::{ResolvConf, ServerConf, Transport},
    },
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;
use vmferry_core::{id::HostName, migration::Endpoint};

/// How long a question may take, however often it is asked.
const LIMIT: Duration = Duration::from_secs(4);
/// After that it is asked again.
const LATE: Duration = Duration::from_millis(500);

/// What refuses is given a little time.
const PAUSE: Duration = Duration::from_millis(100);

/// How many targets are resolved at the same time.
const CONCURRENCY: usize = 32;

/// `[dns]` of an inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dns {
    /// Whose SRV records name the hosts.
    pub(crate) srv: Name<Vec<u8>>,
    /// Who is asked; nobody: those of `/etc/resolv.conf`.
    pub(crate) servers: Vec<SocketAddr>,
    /// How a host is called.
    pub(crate) names: Names,
}

/// How a host is called whose record's target is `node-28.example.org`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Names {
    /// `node-28`
    #[default]
    Label,
    /// `node-28.example.org`
    Full,
}

/// A record, as far as it counts: all hosts are wanted, so priority and weight mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    /// Without the dot at its end.
    name: String,
    port: u16,
}

impl Dns {
    /// For messages, and to tell what it says from what another said.
    pub(crate) fn place(&self) -> String {
        let mut how: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        if self.names == Names::Full {
            how.push("by whole names".into());
        }
        let how = if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) };
        format!("DNS at {}{how}", self.srv)
    }

    /// The hosts, and what is wrong with records that name none. Addresses are resolved here: other hosts, which are told them, need
    /// not ask the same servers, and what is remembered of them is of use when no server answers.
    ///
    /// # Errors
    ///
    /// DNS does not answer, or has no such records.
    pub(crate) async fn hosts(&self) -> Result<(Vec<Endpoint>, Vec<String>), String> {
        let silent = |error: std::io::Error| format!("does not answer ({error})");
        let resolver = StubResolver::from_conf(self.configuration());
        let answer = in_time(|| async { resolver.query((&self.srv, Rtype::SRV)).await.map_err(silent) }).await?;
        match answer.header().rcode() {
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return Err("has no such name; correct `dns.srv`, or create the records".into()),
            other => return Err(format!("answers only {other}")),
        }
        let nonsense = |error: domain::base::wire::ParseError| format!("answers what is no DNS ({error})");
        let records = answer.answer().map_err(nonsense)?.limit_to_in::<Srv<_>>();
        let mut targets: Vec<_> = records
            .map(|record| {
                let record = record.map_err(nonsense)?;
                let name = record.data().target().to_string();
                Ok(Target { name: name.trim_end_matches('.').to_owned(), port: record.data().port() })
            })
            .collect::<Result<_, String>>()?;
        if targets.is_empty() {
            return Err("has no SRV records there; correct `dns.srv`, or create the records".into());
        }
        // Servers answer in another order each time.
        targets.sort();
        targets.dedup();
        // A single target `.` says that there is no service.
        targets.retain(|target| !target.name.is_empty());
        let names: Vec<_> = targets.iter().map(|target| target.name.clone()).collect();
        let addresses: BTreeMap<_, _> = stream::iter(names)
            .map(|name| async {
                let address = in_time(|| resolve(&resolver, &name)).await?;
                Ok::<_, String>((name, address))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        Ok(self.read(targets, &addresses))
    }

    /// Each server twice: the second is asked when the first is late, and a datagram that was lost is not sent again in time.
    fn configuration(&self) -> ResolvConf {
        let mut configuration = if self.servers.is_empty() { ResolvConf::default() } else { ResolvConf::new() };
        let configured = configuration.servers.iter().map(|server| server.addr);
        let servers: Vec<_> = if self.servers.is_empty() { configured.collect() } else { self.servers.clone() };
        let with = |transport| servers.iter().map(move |server| ServerConf::new(*server, transport));
        configuration.servers = with(Transport::UdpTcp).chain(with(Transport::Tcp)).collect();
        configuration.options.timeout = LATE;
        configuration.finalize();
        configuration
    }

    fn read(&self, targets: Vec<Target>, addresses: &BTreeMap<String, Option<IpAddr>>) -> (Vec<Endpoint>, Vec<String>) {
        let (mut hosts, mut problems) = (Vec::new(), Vec::new());
        for Target { name, port } in targets {
            let skipped = |why: &str| format!("the SRV record of {} for {name}:{port} is skipped: {why}", self.srv);
            let host: Result<HostName, _> = match self.names {
                Names::Label => name.split('.').next().unwrap_or_default().parse(),
                Names::Full => name.parse(),
            };
            match (host, addresses.get(&name).copied().flatten()) {
                (Err(error), _) => problems.push(skipped(&error.to_string())),
                (_, None) => problems.push(skipped("the target has no address in DNS; create an A or AAAA record")),
                (_, Some(_)) if port == 0 => problems.push(skipped("0 is no port; write the agent's, 7443")),
                (Ok(host), Some(address)) => {
                    hosts.push(Endpoint { host, address: SocketAddr::new(address, port).to_string() });
                }
            }
        }
        (hosts, problems)
    }
}

/// Each question by itself, and again if nothing came: of a large fleet there are many, a server that is slow with all of them answers,
/// and a datagram is lost now and then.
async fn in_time<T, F: Future<Output = Result<T, String>>>(question: impl FnMut() -> F) -> Result<T, String> {
    let late = |_| format!("does not answer (nothing came within {} s)", LIMIT.as_secs());
    let again = ConstantBuilder::default().with_delay(PAUSE).without_max_times();
    timeout(LIMIT, question.retry(again)).await.map_err(late)?
}

/// `None`: it has none, which is DNS's answer. IPv4 where there are both: a host that has it can be reached by it, which of IPv6 is not so
/// certain.
async fn resolve(resolver: &StubResolver, name: &str) -> Result<Option<IpAddr>, String> {
    let Ok(target) = read_name(name) else { return Ok(None) };
    let silent = |error: std::io::Error| format!("does not answer ({name}: {error})");
    let nonsense = |error: domain::base::wire::ParseError| format!("answers what is no DNS ({name}: {error})");
    // Each by itself: where one of two answers was lost, the other does not tell.
    for kind in [Rtype::A, Rtype::AAAA] {
        let answer = resolver.query((&target, kind)).await.map_err(silent)?;
        let records = answer.answer().map_err(nonsense)?.limit_to_in::<AllRecordData<_, _>>();
        for record in records {
            match record.map_err(nonsense)?.data() {
                AllRecordData::A(address) => return Ok(Some(address.addr().into())),
                AllRecordData::Aaaa(address) => return Ok(Some(address.addr().into())),
                _ => {} // What leads to it: another name.
            }
        }
    }
    Ok(None)
}

/// A name of DNS, with or without a dot at its end.
pub(crate) fn read_name(text: &str) -> Result<Name<Vec<u8>>, FromStrError> {
    text.parse::<Name<Vec<u8>>>().map(|name| name.to_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: Names, targets: &[(&str, u16)]) -> (Vec<String>, Vec<String>) {
        let srv = read_name("_vmferry._tcp.example.org").expect("a name");
        let dns = Dns { srv, servers: Vec::new(), names };
        let targets = targets.iter().map(|(name, port)| Target { name: (*name).to_owned(), port: *port }).collect();
        let addresses = [
            ("node-28.example.org", Some("192.0.2.10")),
            ("node-31.example.org", Some("2001:db8::31")),
            ("node-32.example.org", None),
            ("*.example.org", Some("192.0.2.99")),
        ];
        let addresses = addresses
            .map(|(name, address)| (name.to_owned(), address.map(|address| address.parse().expect("an address"))))
            .into();
        let (hosts, problems) = dns.read(targets, &addresses);
        (hosts.iter().map(|host| format!("{} {}", host.host, host.address)).collect(), problems)
    }

    #[test]
    fn a_host_is_called_by_its_first_label_or_by_the_whole_name() {
        let targets = [("node-28.example.org", 7443), ("node-31.example.org", 7444)];
        let (hosts, problems) = read(Names::Label, &targets);
        assert_eq!(
            (hosts, problems),
            (vec!["node-28 192.0.2.10:7443".into(), "node-31 [2001:db8::31]:7444".into()], Vec::<String>::new())
        );
        let (hosts, _) = read(Names::Full, &targets);
        assert_eq!(hosts[0], "node-28.example.org 192.0.2.10:7443");
    }

    #[test]
    fn a_record_that_names_no_host_costs_only_itself() {
        let targets = [
            ("*.example.org", 7443),
            ("node-28.example.org", 0),
            ("node-31.example.org", 1),
            ("node-32.example.org", 7443),
        ];
        let (hosts, problems) = read(Names::Label, &targets);
        assert_eq!(hosts, ["node-31 [2001:db8::31]:1"]);
        for (problem, words) in
            problems.iter().zip(["`*` is not a valid host name", "0 is no port", "no address in DNS"])
        {
            assert!(problem.contains(words) && problem.contains("_vmferry._tcp.example.org"), "{problem}");
        }
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
