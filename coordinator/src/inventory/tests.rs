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
    let inventory = parse(&path, &text, None).expect("valid");
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
        address = "192.0.2.11:7443"
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
    host[3].name repeats the name node-31; give each host a name of its own
    host[3].address repeats the address 192.0.2.11:7443; give each host an address of its own
    host[4].name is missing; write the name that the agent's certificate carries: letters, digits, `-`, `.`, `_`
    host[4].address is missing; write HOST:PORT, for example "192.0.2.10:7443" or "[2001:db8::10]:7443"
    colour is unknown; remove it; known here: tls, coordinator, host, policy
    "#);
}

#[test]
fn an_empty_file_lacks_both_parts() {
    insta::assert_snapshot!(problems("").join("\n"), @"
    tls is missing; add [tls] with ca, certificate and key, as `vmferry pki issue` made them
    host is missing; add a [[host]] with name and address for each hypervisor
    ");
}

#[test]
fn syntax_errors_name_their_line() {
    insta::assert_snapshot!(problems("[tls]\nca = \n").join("\n"), @"line 2 is not TOML: string values must be quoted, expected literal string; correct it; `vmferry --help` has an example");
}

#[test]
fn addresses_have_a_host_and_a_port() {
    for good in ["192.0.2.10:7443", "node-28.example.org:1", "[::1]:65535"] {
        assert!(is_address(good), "{good}");
    }
    for bad in ["", ":7443", "node-28", "node-28:", "node-28:0", "node-28:65536", "::1:7443", "[::1]", "a b:1"] {
        assert!(!is_address(bad), "{bad}");
    }
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
fn a_coordinator_stands_in_the_place_of_hosts() {
    let directory = directory();
    let path = directory.path().join("inventory.toml");
    let read = |text: &str, given| parse(&path, &format!("{TLS}{text}"), given);
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
