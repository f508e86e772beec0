use super::*;

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(directory.path().join("pki")).expect("created");
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::write(directory.path().join("pki").join(file), "").expect("written");
    }
    directory
}

const TLS: &str = "[tls]\nca = \"pki/ca.pem\"\ncertificate = \"pki/cert.pem\"\nkey = \"pki/key.pem\"\n";

fn problems(text: &str) -> Vec<String> {
    let directory = directory();
    match parse(&directory.path().join("inventory.toml"), text, None) {
        Err(Invalid::Wrong { problems, .. }) => problems
            .iter()
            .map(|problem| problem.to_string().replace(&directory.path().display().to_string(), "DIR"))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_hosts_in_order_and_paths_relative_to_itself() {
    let directory = directory();
    let path = directory.path().join("inventory.toml");
    let text = format!(
        "{TLS}[[host]]\nname = \"node-28\"\naddress = \"192.0.2.10:7443\"\n\
         [[host]]\nname = \"node-27\"\naddress = \"[2001:db8::27]:7443\"\n"
    );
    let inventory = parse(&path, &text, None).expect("valid").inventory;
    assert_eq!(inventory.tls.key, directory.path().join("pki/key.pem"));
    let names: Vec<_> = inventory.hosts.iter().map(|endpoint| endpoint.host.as_str()).collect();
    assert_eq!(names, ["node-28", "node-27"]);
}

#[test]
fn reports_everything_at_once_with_key_and_remedy() {
    let text = r#"
        colour = "blue"
        [tls]
        ca = "pki/none.pem"
        certificate = 7
        keys = "pki/key.pem"
        [[host]]
        name = "node 28"
        address = "192.0.2.10"
        [[host]]
        name = "node-31"
        address = "192.0.2.11:7443"
        zone = "nova"
        [[host]]
        name = "node-31"
        address = "[::ffff:192.0.2.11]:7443"
        [[host]]
    "#;
    insta::assert_snapshot!(problems(text).join("\n"), @r#"
    tls.keys is unknown; remove it; known here: ca, certificate, key
    tls.ca names DIR/pki/none.pem, which is not a file; create it with `vmferry pki issue`, or correct the path
    tls.certificate is of type integer, not a string; name a PEM file
    tls.key is missing; name a PEM file
    host[1].name is wrong: `node 28` is not a valid host name; write the name that the agent's certificate carries: letters, digits, `-`, `.`, `_`
    host[1].address is `192.0.2.10`, not an address with a port; write HOST:PORT, for example "192.0.2.10:7443" or "[2001:db8::10]:7443"
    host[2].zone is unknown; remove it; known here: name, address
    host[3].name repeats that of host[2]; give each host a name of its own
    host[3].address repeats that of host[2]; give each host an address of its own
    host[4].name is missing; write the name that the agent's certificate carries: letters, digits, `-`, `.`, `_`
    host[4].address is missing; write HOST:PORT, for example "192.0.2.10:7443" or "[2001:db8::10]:7443"
    colour is unknown; remove it; known here: tls, coordinator, host, policy, schedule, dns, etcd
    "#);
}

#[test]
fn an_empty_file_lacks_both_parts() {
    insta::assert_snapshot!(problems("").join("\n"), @"
    tls is missing; add [tls] with ca, certificate and key, as `vmferry pki issue` made them
    host is missing; add a [[host]] with name and address for each hypervisor, or [dns] or [etcd] that say where they are
    ");
}

#[test]
fn hosts_may_be_elsewhere() {
    let directory = directory();
    let path = directory.path().join("inventory.toml");
    let text = format!(
        "{TLS}[dns]\nsrv = \"_vmferry._tcp.example.org.\"\nservers = [\"127.0.0.1:5353\", \"::1\", \"192.0.2.53\"]\n\
         names = \"full\"\n[etcd]\nendpoints = [\"https://etcd-1.example.org:2379\"]\ntls = {{ ca = \"pki/ca.pem\" }}\n"
    );
    let File { inventory, dns, etcd } = parse(&path, &text, None).expect("valid");
    assert!(inventory.hosts.is_empty());
    let dns = dns.expect("given");
    let place = "DNS at _vmferry._tcp.example.org (127.0.0.1:5353, [::1]:53, 192.0.2.53:53, by whole names)";
    assert_eq!((dns.place().as_str(), dns.names), (place, dns::Names::Full));
    let etcd = etcd.expect("given");
    assert_eq!(
        (etcd.place().as_str(), etcd.prefix.as_str()),
        ("etcd at https://etcd-1.example.org:2379", "/vmferry/hosts/")
    );
    assert_eq!(etcd.tls.expect("given").ca, directory.path().join("pki/ca.pem"));
}

#[test]
fn what_is_wrong_with_where_hosts_are_is_said_with_the_rest() {
    let text = format!(
        "{TLS}[dns]\nsrv = \"a..b\"\nservers = [\"dns.example.org\"]\nnames = \"short\"\ntype = \"A\"\n\
         [etcd]\nendpoints = [\"127.0.0.1\"]\nprefx = \"/\"\ntls = {{ ca = \"none.pem\", cert = \"x\" }}\n"
    );
    insta::assert_snapshot!(problems(&text).join("\n"), @r#"
    dns.type is unknown; remove it; known here: srv, servers, names
    dns.srv is `a..b`, not a name: empty label; write the name of the SRV records, for example "_vmferry._tcp.example.org"
    dns.servers[1] is "dns.example.org", not an address; write IP addresses of name servers, with :PORT if it is not 53; or leave it out
    dns.names is neither "label" nor "full"; write "label" if the host of node-28.example.org is called node-28, as in its certificate, or "full" if it is called node-28.example.org
    etcd.prefx is unknown; remove it; known here: endpoints, prefix, tls, username, password_file
    etcd.tls.cert is unknown; remove it; known here: ca, certificate, key
    etcd.endpoints[1] is `127.0.0.1`, not https://HOST:PORT or http://HOST:PORT; write the URLs of etcd's members, e.g. ["https://etcd-1.example.org:2379"]
    etcd.tls.ca names DIR/none.pem, which is not a file; correct the path
    "#);
    insta::assert_snapshot!(problems(&format!("dns = 1\netcd = []\n{TLS}")).join("\n"), @"
    dns is not a table; write [dns] with srv, and servers if they are others
    etcd is not a table; write [etcd] with endpoints, and tls for https
    ");
    insta::assert_snapshot!(problems(&format!("{TLS}[dns]\nservers = 1\n[etcd]\nendpoints = \"x\"\n")).join("\n"), @r#"
    dns.srv is missing; write the name of the SRV records, for example "_vmferry._tcp.example.org"
    dns.servers is of type integer, not a list; write IP addresses of name servers, with :PORT if it is not 53; or leave it out
    etcd is wrong: invalid type: string "x", expected a sequence; write [etcd] with endpoints, and tls for https
    "#);
}

#[test]
fn syntax_errors_name_their_line() {
    insta::assert_snapshot!(problems("[tls]\nca = \n").join("\n"), @"line 2 is not TOML: string values must be quoted, expected literal string; correct it; `vmferry --help` has an example");
}

#[test]
fn a_named_file_is_the_only_one_looked_at() {
    let places = Places {
        named: Some("/x/inventory.toml".into()),
        xdg_config_home: Some("/c".into()),
        home: Some("/home/ops".into()),
        coordinator: None,
    };
    assert_eq!(places.candidates(), [PathBuf::from("/x/inventory.toml")]);
    let places = Places { named: None, ..places };
    assert_eq!(
        places.candidates(),
        [PathBuf::from("/c/vmferry/inventory.toml"), PathBuf::from("/etc/vmferry/inventory.toml")]
    );
    let places = Places { xdg_config_home: None, ..places };
    assert_eq!(
        places.candidates(),
        [PathBuf::from("/home/ops/.config/vmferry/inventory.toml"), PathBuf::from("/etc/vmferry/inventory.toml")]
    );
}

#[test]
fn says_how_much_each_weigher_counts_and_complains_of_what_is_none() {
    let directory = directory();
    let hosts = "[[host]]\nname = \"node-28\"\naddress = \"192.0.2.10:7443\"\n";
    let read = |schedule: &str| {
        let text = format!("{TLS}{hosts}{schedule}");
        parse(&directory.path().join("inventory.toml"), &text, None).expect("valid").inventory.weights
    };
    assert_eq!(read(""), Weights::default());
    let expected = Weights { memory: -2.0, instances: 0.5, ..Weights::default() };
    assert_eq!(read("[schedule]\nmemory = -2\ninstances = 0.5\n"), expected);
    insta::assert_snapshot!(
        problems(&format!("{TLS}{hosts}[schedule]\nmemry = 1\nmemory = nan\nvcpus = \"many\"\n")).join("\n"),
        @r#"
    schedule.memry is unknown; remove it; known here: memory, vcpus, incoming, qemu_version, soft_affinity, soft_anti_affinity, same_zone, instances
    schedule.memory is `nan`: NaN is no multiplier; write a number, for example 2.0 or -1
    schedule.vcpus is `"many"`: invalid type: string "many", expected f64; write a number, for example 2.0 or -1
    "#
    );
}

#[test]
fn a_coordinator_stands_in_the_place_of_hosts() {
    let directory = directory();
    let path = directory.path().join("inventory.toml");
    let read = |text: &str, given| parse(&path, &format!("{TLS}{text}"), given).map(|file| file.inventory);
    let named = read("[coordinator]\naddress = \"fleet.example.org:7444\"\nname = \"fleet\"\n", None).expect("valid");
    assert_eq!(named.coordinator, Some(Coordinator::new("fleet.example.org:7444", Some("fleet".into()))));
    assert!(named.hosts.is_empty());
    // What the user says counts, and needs no hosts either.
    let given = read("", Some("192.0.2.1:7444")).expect("valid");
    assert_eq!(given.coordinator, Some(Coordinator::new("192.0.2.1:7444", None)));
    for (text, given) in [
        ("[coordinator]\nname = \"fleet\"\n", None),
        ("[coordinator]\naddress = \"fleet\"\n", None),
        ("[coordinator]\naddress = \"fleet:7444\"\nport = 1\n", None),
        ("coordinator = \"fleet:7444\"\n", None),
        ("", Some("fleet")),
        ("", None),
    ] {
        assert!(read(text, given).is_err(), "{text} {given:?}");
    }
}
