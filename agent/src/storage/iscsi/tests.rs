use super::*;

fn meant(why: Why) -> Meaning {
    Trouble::Portal { at: "127.0.0.1:3260".into(), why }.meaning()
}

/// Each as libiscsi 1.19 said it.
#[test]
fn what_libiscsi_fails_with_says_what_is_wrong() {
    let session = |words: &str| meant(Why::Session(words.into()));
    assert_eq!(session("Failed to log in to target. Status: Authentication failure(513)"), Meaning::Denied);
    for gone in [
        "Failed to log in to target. Status: Target not found(515)",
        "SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)",
    ] {
        assert_eq!(session(gone), Meaning::Gone, "{gone}");
    }
    for silent in [
        "iscsi_service failed with : iscsi_service_reconnect_if_loggedin. Can not reconnect right now.",
        "Failed to start full connect Couldn't connect transport: Connect failed with errno : Network is unreachable(101)",
        "Failed to start full connect Invalid target:nohost.invalid:3260  Can not resolv into IPv4/v6.",
    ] {
        assert_eq!(session(silent), Meaning::Unreachable, "{silent}");
    }
    assert_eq!(meant(Why::Silent), Meaning::Unreachable);
    assert_eq!(session("SENSE KEY:NOT_READY(2) ASCQ:(null)(0x0401)"), Meaning::Other);
    let command = |words: &str| meant(Why::Command(words.into()));
    assert_eq!(command("SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)"), Meaning::Gone);
    assert_eq!(command("BUSY"), Meaning::Other);
    assert_eq!(Trouble::Library("none".into()).meaning(), Meaning::Other);
}

#[test]
fn what_is_told_of_luns_is_understood_by_who_asked() {
    let found = Found { size: bytesize::ByteSize::b(512), identity: "IET 00010001, serial beaf11".into() };
    let sight = Sight { found, portal: "127.0.0.1:3260".into() };
    let silent = Trouble::Portal { at: "127.0.0.1:3260".into(), why: Why::Silent };
    for answer in [Ok(vec![Ok(sight), Err(silent)]), Err(Trouble::Library("none".into()))] {
        let said = serde_json::to_string(&answer).expect("JSON");
        assert_eq!(serde_json::from_str::<look::Answer<Sight, Trouble>>(&said).expect("the same"), answer);
    }
}
