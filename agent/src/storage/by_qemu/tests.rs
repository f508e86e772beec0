use vmferry_core::volume::{Iscsi, Login, Rbd, SecretName};

use super::*;

fn login() -> Option<Login> {
    Some(Login { user: "web".into(), secret: SecretName::Usage("any".into()) })
}

#[tokio::test]
async fn a_login_without_its_secret_asks_nobody() {
    let lun =
        Iscsi { portals: vec!["127.0.0.1:1".into()], target: "iqn.a".into(), lun: 0, initiator: None, login: login() };
    let rbd = Rbd { monitors: vec![], configuration: None, image: "a/b".into(), snapshot: None, login: login() };
    let connections = [Connection::Iscsi(lun), Connection::Rbd(rbd)];
    for answer in find(&connections.each_ref().map(|one| (one, None)), Duration::from_secs(1)).await {
        let error = answer.expect_err("no secret");
        assert!(matches!(&error, FindError::NoSecret { user, .. } if user == "web"), "{error:?}");
    }
}
