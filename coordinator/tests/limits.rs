//! Where a migration's policy comes from, and what instances allow of it, as users see it.

use std::{fs, time::Duration};

use vmferry_core::{
    convergence::{Action, GuestLimits, May, Policy, Span, Step, When, named},
    migration::Order,
};

use crate::cluster::{Cluster, said};

fn policy(name: &str, millis: u64) -> Policy {
    let when = When::After(Span { base: Duration::from_secs(60), per_gib: Duration::ZERO });
    let steps = vec![Step { when, action: Action::Abort }];
    Policy::new(name, Duration::from_millis(millis), None, steps).expect("valid")
}

fn ms(millis: u64) -> Option<Duration> {
    Some(Duration::from_millis(millis))
}

/// Adds a policy to the user's inventory.
fn write(cluster: &Cluster, name: &str, millis: u64) {
    let path = cluster.inventory("inventory");
    let more = format!("[policy.{name}]\ndowntime = \"{millis}ms\"\nsteps = [{{ after = \"1h\", do = \"abort\" }}]\n");
    fs::write(&path, fs::read_to_string(&path).expect("there") + &more).expect("written");
}

/// What a migration with these arguments is ordered to be. The guest goes back afterwards.
async fn ordered(cluster: &Cluster, arguments: &str) -> Order {
    cluster.vmferry(format!("migrate web --to node-31 {arguments}").trim_end()).await.success();
    let mut world = cluster.world();
    world.on_destination = false;
    world.samples = 0;
    let order = world.records.values().next().expect("one").order.clone();
    world.records.clear();
    order
}

#[tokio::test]
async fn a_policy_is_the_inventorys_or_else_the_sources_or_else_the_one_that_is_always_there() {
    let cluster = Cluster::new().await;
    let downtime = async |arguments| ordered(&cluster, arguments).await.limits.policy.downtime().as_millis();
    assert_eq!(downtime("").await, 50);
    cluster.world().policies = vec![policy("default", 8), policy("night", 9)];
    assert_eq!([downtime("").await, downtime("--policy night").await, downtime("--policy gentle").await], [8, 9, 30]);
    write(&cluster, "night", 7);
    assert_eq!([downtime("").await, downtime("--policy night").await], [8, 7]);
    write(&cluster, "default", 6);
    assert_eq!(downtime("").await, 6);
}

#[tokio::test]
async fn a_policy_that_stops_the_guest_may_do_so_at_once() {
    let cluster = Cluster::new().await;
    let steps = ordered(&cluster, "--policy must-finish --deadline 0s").await.limits.policy.steps().to_vec();
    assert_eq!(steps.last().map(ToString::to_string).as_deref(), Some("after 0s: suspend"));
    cluster.vmferry("migrate web --to node-31 --policy gentle --deadline 0s").await.code(2);
    assert!(cluster.world().records.is_empty());
}

#[tokio::test]
async fn an_agent_of_before_has_no_policies_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.world().policies = vec![policy("default", 8)];
    cluster.world().is_old = true;
    assert_eq!(ordered(&cluster, "").await.limits.policy, Policy::default());
}

#[tokio::test]
async fn an_unknown_policy_is_refused_with_those_that_there_are_and_where() {
    let cluster = Cluster::new().await;
    cluster.world().policies = vec![policy("night", 9)];
    write(&cluster, "own", 7);
    let output = cluster.vmferry("migrate web --to node-31 --policy nonesuch").await.code(2).get_output().clone();
    for words in ["no policy nonesuch", "gentle", "night in the configuration of node-28", "own in ", "inventory.toml"]
    {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    cluster.world().limits.policy = Some("gone".into());
    let output = cluster.vmferry("migrate web --to node-31").await.code(2).get_output().clone();
    assert!(said(&output).contains("web's own limits name its policy: no policy gone"), "{}", said(&output));
    assert!(cluster.world().records.is_empty());
    assert_eq!(ordered(&cluster, "--policy own").await.limits.policy.name(), "own");
}

#[tokio::test]
async fn policies_are_listed_with_where_they_are_from() {
    let cluster = Cluster::new().await;
    cluster.world().policies = vec![policy("default", 8), policy("night", 9)];
    write(&cluster, "night", 7);
    let origins = async |arguments: &str| {
        let (code, document) = cluster.json(arguments).await;
        assert_eq!(code, 0, "{document}");
        let all = document["policies"].as_array().expect("a list").clone();
        ["default", "gentle", "night"].map(|name| {
            let known = all.iter().find(|policy| policy["name"] == name).expect("listed");
            let host = known["host"].as_str().unwrap_or("-");
            format!("{} {host} {}", known["origin"].as_str().expect("said"), known["downtime_ms"])
        })
    };
    assert_eq!(origins("policies").await, ["built_in - 50", "built_in - 30", "inventory - 7"]);
    assert_eq!(origins("policies --host node-28").await, ["host node-28 8", "built_in - 30", "inventory - 7"]);
    assert_eq!(origins("policies --host node-31").await[0], "built_in - 50");
    let output = cluster.vmferry("policies --host node-28").await.success().get_output().clone();
    for line in ["default (node-28; unless another is asked for)", "gentle (built in)", "night (inventory)"] {
        assert!(said(&output).contains(line), "{line}: {}", said(&output));
    }
    let viewer = cluster.inventory("viewer-dashboard");
    cluster.vmferry(&format!("policies --host node-28 --inventory {viewer}")).await.success();
    cluster.vmferry("policies --host node-99").await.code(2);
}

#[tokio::test]
async fn what_an_instance_allows_makes_the_policy_of_its_migrations() {
    let cluster = Cluster::new().await;
    let own = Some("must-finish".to_owned());
    cluster.world().limits =
        GuestLimits { policy: own, max_downtime: ms(200), postcopy: Some(May::Never), suspend: Some(May::Allowed) };
    let limits = ordered(&cluster, "").await.limits;
    assert_eq!((limits.policy.name(), ms(200)), ("must-finish", Some(limits.policy.longest_downtime())));
    let named = ordered(&cluster, "--policy postcopy").await.limits.policy;
    assert!(named.name() == "postcopy" && !named.may_postcopy(), "{named:?}");
    // What is asked for beyond them is the source's to refuse.
    let asked = ordered(&cluster, "--max-downtime 1s --postcopy").await.limits.policy;
    assert!(asked.may_postcopy() && asked.longest_downtime() == Duration::from_secs(1), "{asked:?}");
    let shorter = ordered(&cluster, "--max-downtime 100ms").await.limits.policy;
    assert_eq!(Some(shorter.longest_downtime()), ms(100));

    cluster.world().limits = GuestLimits { postcopy: Some(May::Allowed), ..GuestLimits::default() };
    let allowed = ordered(&cluster, "").await.limits.policy;
    assert!(allowed.may_postcopy() && allowed.steps() == named_default().steps());
}

fn named_default() -> Policy {
    named("default").expect("one of them")
}

#[tokio::test]
async fn limits_are_said_shown_and_forgotten() {
    let cluster = Cluster::new().await;
    let output = cluster
        .vmferry("instance limits set web --max-downtime 200ms --postcopy never")
        .await
        .success()
        .get_output()
        .clone();
    assert!(said(&output).contains("limits      stands still for 200ms at most, postcopy never"), "{}", said(&output));
    let output = cluster.vmferry("instance limits show web").await.success().get_output().clone();
    insta::assert_snapshot!(said(&output), @r"
    instance      web
    policy        default, unless another is asked for
    max downtime  200ms
    postcopy      never
    suspend       never, since it may stand still no longer than that
    ");
    cluster.vmferry("instance limits set web --policy must-finish").await.success();
    let (code, shown) = cluster.json("instance limits show web").await;
    let limits = &shown["limits"];
    assert_eq!((code, limits["policy"].as_str()), (0, Some("must-finish")));
    assert!(
        limits["max_downtime_ms"].is_null() && limits["postcopy"].is_null(),
        "in the place of what was said: {shown}"
    );
    cluster.vmferry("instance limits unset web").await.success();
    assert!(cluster.world().limits.is_empty());
    let (_, shown) = cluster.json("instance show web").await;
    assert!(shown["limits"]["policy"].is_null(), "{shown}");
}

#[tokio::test]
async fn limits_that_cannot_be_are_not_set() {
    let cluster = Cluster::new().await;
    for (arguments, words) in [
        ("set web", "--policy <NAME>"),
        ("set web --max-downtime 0s", "write 1ms to 33m 20s"),
        ("set web --max-downtime 1h", "write 1ms to 33m 20s"),
        ("set web --postcopy maybe", "`maybe` is neither `never` nor `allowed`"),
        ("set web --policy Fast", "`Fast` is no name of a policy"),
        ("set web --policy nonesuch", "no policy nonesuch"),
        (
            "set web --policy must-finish --max-downtime 200ms",
            "policy must-finish stops web, which these limits never allow",
        ),
        ("set nobody --postcopy never", "nobody"),
    ] {
        let output = cluster.vmferry(&format!("instance limits {arguments}")).await.code(2).get_output().clone();
        assert!(said(&output).contains(words), "{arguments}: {}", said(&output));
    }
    let viewer = cluster.inventory("viewer-dashboard");
    let set = format!("instance limits set web --postcopy never --inventory {viewer}");
    let output = cluster.vmferry(&set).await.code(7).get_output().clone();
    assert!(said(&output).contains("may only look"), "{}", said(&output));
    assert!(cluster.world().limits.is_empty());
}
