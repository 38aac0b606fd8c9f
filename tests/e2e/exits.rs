//! Every way not to start says what to do and ends with its own code.

use crate::feed::people;
use crate::kafka::kafka;
use crate::sandbox::Sandbox;
use crate::sidecar::text;

#[test]
fn wrong_configuration_is_2() {
    let sandbox = Sandbox::new(kafka(), "exit-2", 1);
    for command in [&["run"][..], &["check"], &["check", "--preflight"], &["dlq", "list"]] {
        let output = sandbox
            .instance(0)
            .set("PIPELINE__LANES", "many")
            .set("KAFKA__GROUPS", "x")
            .run(command);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
        // Every fault at once.
        assert!(
            said.contains("pipeline.lanes") && said.contains("kafka.groups"),
            "{command:?}: {said}"
        );
    }
    let output =
        sandbox.instance(0).set("KAFKA__CONSUMER__ENABLE.AUTO.COMMIT", "true").run(&["run"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("offsets commit inside the transactions"), "{}", text(&output));
    sandbox.document("people", &people("exit-2").replace("$.email", "$.email["));
    for command in ["run", "check"] {
        let output = sandbox.instance(0).run(&[command]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("people.json"), "{}", text(&output));
    }
}

#[test]
fn topics_that_do_not_fit_are_5() {
    let sandbox = Sandbox::new(kafka(), "exit-5", 3);
    let instance = sandbox.instance(0);
    let checked = instance.run(&["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
    for command in [&["run"][..], &["check", "--preflight"]] {
        let output = instance.run(command);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(5), "{said}");
        for topic in ["exit-5.clean", "exit-5.dead-letter"] {
            assert!(said.contains(&format!("--create --topic {topic} --partitions 3")), "{said}");
        }
    }
    sandbox.broker.create_topic("exit-5.clean", 2);
    let output = instance.run(&["check", "--preflight"]);
    assert!(
        text(&output).contains("--alter --topic exit-5.clean --partitions 3"),
        "{}",
        text(&output)
    );
    sandbox.document("people", &people("exit-5-other"));
    let output = instance.run(&["run"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(
        text(&output).contains("raw topic exit-5-other.raw does not exist"),
        "{}",
        text(&output)
    );
    let nobody = sandbox
        .instance(0)
        .set("KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .run(&["check", "--preflight"]);
    assert_eq!(nobody.status.code(), Some(5));
    assert!(text(&nobody).contains("no broker answers"), "{}", text(&nobody));
}

#[test]
fn a_topic_that_fits_passes_the_preflight() {
    let sandbox = Sandbox::new(kafka(), "fits", 2);
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let output = instance.run(&["check", "--preflight"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("schema people/1: fits.raw -> fits.clean"), "{}", text(&output));
}
