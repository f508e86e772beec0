//! `[dns]` and `[etcd]` of an inventory, as they are written.

use std::net::{IpAddr, SocketAddr};

use toml::{Table, Value};
use vmferry_registry::{Settings, SettingsText};

use super::{
    Reader,
    dns::{Dns, Names, read_name},
};

/// DNS's own.
const PORT: u16 = 53;

impl Reader {
    pub(super) fn dns(&mut self, value: &Value) -> Option<Dns> {
        let Value::Table(table) = value else {
            return self.complain("dns", "is not a table", "write [dns] with srv, and servers if they are others");
        };
        self.unknown("dns.", table, &["srv", "servers", "names"]);
        let srv = self.srv(table);
        let servers = self.servers(table);
        let names = self.names(table);
        Some(Dns { srv: srv?, servers: servers?, names: names? })
    }

    fn srv(&mut self, table: &Table) -> Option<domain::base::Name<Vec<u8>>> {
        let remedy = "write the name of the SRV records, for example \"_vmferry._tcp.example.org\"";
        let text = self.text(table, "dns.", "srv", remedy)?;
        match read_name(&text) {
            Ok(name) => Some(name),
            Err(error) => self.complain("dns.srv", &format!("is `{text}`, not a name: {error}"), remedy),
        }
    }

    fn servers(&mut self, table: &Table) -> Option<Vec<SocketAddr>> {
        let remedy = "write IP addresses of name servers, with :PORT if it is not 53; or leave it out";
        let servers = match table.get("servers") {
            Some(Value::Array(servers)) => servers.as_slice(),
            Some(other) => {
                let what = format!("is of type {}, not a list", other.type_str());
                return self.complain("dns.servers", &what, remedy);
            }
            None => &[],
        };
        let read = |server: &Value| {
            let text = server.as_str()?;
            text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT)))
        };
        let mut found = Vec::new();
        for (number, server) in servers.iter().enumerate() {
            match read(server) {
                Some(server) => found.push(server),
                None => {
                    let key = format!("dns.servers[{}]", number + 1);
                    self.complain::<()>(&key, &format!("is {server}, not an address"), remedy);
                }
            }
        }
        Some(found)
    }

    fn names(&mut self, table: &Table) -> Option<Names> {
        match table.get("names").map(Value::as_str) {
            None => Some(Names::default()),
            Some(Some("label")) => Some(Names::Label),
            Some(Some("full")) => Some(Names::Full),
            Some(_) => {
                let remedy = "write \"label\" if the host of node-28.example.org is called node-28, as in its \
                              certificate, or \"full\" if it is called node-28.example.org";
                self.complain("dns.names", "is neither \"label\" nor \"full\"", remedy)
            }
        }
    }

    pub(super) fn etcd(&mut self, value: &Value) -> Option<Settings> {
        let remedy = "write [etcd] with endpoints, and tls for https";
        let Value::Table(table) = value else {
            return self.complain("etcd", "is not a table", remedy);
        };
        self.unknown("etcd.", table, SettingsText::KEYS);
        if let Some(Value::Table(tls)) = table.get("tls") {
            self.unknown("etcd.tls.", tls, SettingsText::TLS_KEYS);
        }
        let text: SettingsText = match value.clone().try_into() {
            Ok(text) => text,
            Err(error) => return self.complain("etcd", &format!("is wrong: {}", error.message()), remedy),
        };
        match text.judge(&self.directory) {
            Ok(settings) => Some(settings),
            Err(complaints) => {
                for complaint in complaints {
                    self.complain::<()>(&format!("etcd.{}", complaint.key), &complaint.what, complaint.remedy);
                }
                None
            }
        }
    }
}
