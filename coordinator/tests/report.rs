//! How a migration went, as the user asks for it afterwards.

use std::{fs, time::Duration};

use bytesize::ByteSize;
use serde_json::Value;
use vmferry_core::{
    convergence::Foreseer,
    migration::{Author, Deed, Event, Point, Side, Steering, Story, Timeline},
};

use crate::cluster::{Cluster, said};

/// A migration that is over, with a story on its source. Returns its id.
async fn moved(cluster: &Cluster) -> String {
    let (_, done) = cluster.json("migrate web --to node-31").await;
    let mut world = cluster.world();
    let record = world.records.values_mut().find(|record| record.side == Side::Source).expect("one");
    let mut foreseer = Foreseer::new(record.order.limits.clone(), Default::default(), Some(ByteSize::mib(100)));
    foreseer.see_memory(ByteSize::gib(1), ByteSize::mib(512));
    foreseer.see_dirty_rate(ByteSize::mib(10));
    let point = |millis, left| Point {
        elapsed: Duration::from_millis(millis),
        remaining: ByteSize::mib(left),
        rate: ByteSize::mib(100),
        round: 1,
        ..Point::default()
    };
    let by = Author::Hand("vmferry://default/coordinator/ops".into());
    record.story = Story {
        foreseen: foreseer.foresee(Duration::from_millis(1_100)),
        events: vec![Event { at: record.started, by, deed: Deed::Told(Steering::Pause) }],
        timeline: Some(Timeline { began: record.started, points: vec![point(50, 200), point(150, 90)] }),
    };
    done["migration_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_migration_is_shown_with_what_was_foreseen_and_done() {
    let cluster = Cluster::new().await;
    let id = moved(&cluster).await;
    let (code, document) = cluster.json(&format!("migrations show {id}")).await;
    assert_eq!((code, &document["forecast"]["dirty_rate_bytes_per_second"]), (0, &(10 << 20).into()), "{document:#}");
    assert_eq!(
        (&document["events"][0]["what"], document["timeline"]["points"].as_array().map(Vec::len)),
        (&"pause".into(), Some(2))
    );
    // By its instance; for people.
    let output = cluster.vmferry("migrations show web").await.success().get_output().clone();
    for words in ["FORECAST", "× ", "paused: as little is sent as can be", "vmferry report"] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let (_, list) = cluster.json("migrations").await;
    let row = list["migrations"][0].as_object().expect("a row");
    assert!(!row.contains_key("timeline") && !row.contains_key("forecast"), "{row:#?}");
}

#[tokio::test]
async fn a_report_is_written_to_a_file_or_to_stdout() {
    let cluster = Cluster::new().await;
    let id = moved(&cluster).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("web.html");
    let (code, document) = cluster.json(&format!("report {id} --html --file {}", file.display())).await;
    let written = fs::read_to_string(&file).expect("written");
    assert_eq!((code, document["size_bytes"].as_u64()), (0, Some(written.len() as u64)), "{document}");
    assert!(written.starts_with("<!DOCTYPE html>") && written.contains("<svg"), "{written}");
    let output = cluster.vmferry("report web --svg").await.success().get_output().clone();
    let svg = String::from_utf8(output.stdout).expect("text");
    assert!(svg.starts_with("<svg") && svg.contains("paused"), "{svg}");
}

#[tokio::test]
async fn a_report_that_cannot_be_is_refused_with_what_to_do() {
    let cluster = Cluster::new().await;
    let id = moved(&cluster).await;
    for (arguments, code, words) in [
        (format!("report {id}"), 2, "<--svg|--html>"),
        (format!("report {id} --svg --html"), 2, "cannot be used with"),
        (format!("report {id} --svg -o json"), 2, "name a file (--file FILE)"),
        ("report ffffffff --svg".into(), 2, "no host of the inventory knows a migration ffffffff"),
        (format!("report {id} --svg --file /nonexistent/web.svg"), 1, "cannot write /nonexistent/web.svg"),
    ] {
        let output = cluster.vmferry(&arguments).await.code(code).get_output().clone();
        assert!(said(&output).contains(words), "{arguments}: {}", said(&output));
    }
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_missed_and_the_rest_is_shown() {
    let mut cluster = Cluster::new().await;
    let id = moved(&cluster).await;
    cluster.stop(0).await;
    let output = cluster.start(&format!("migrations show {id} -o json")).wait_with_output().await.expect("ran");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert!(document["source"].is_null() && document["timeline"].is_null(), "{document:#}");
    assert!(said(&output).contains("node-28 is not in it"), "{}", said(&output));
    let output = cluster.vmferry(&format!("report {id} --svg")).await.success().get_output().clone();
    assert!(said(&output).contains("the source has no record of it, or could not be asked"), "{}", said(&output));
}
