//! Transactional ids of instances with a hyphen in their name.

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use veilstream::kafka::settings::former_transactional_id;

use crate::kafka::kafka;
use crate::sandbox::Sandbox;

const CALL: Duration = Duration::from_secs(20);

/// A producer of an id with an open transaction.
pub(crate) fn open(id: &str, topic: &str) -> BaseProducer {
    let mut client = kafka().client();
    let producer: BaseProducer =
        client.set("transactional.id", id).set("log_level", "0").create().unwrap();
    producer.init_transactions(CALL).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<str, str>::to(topic).payload("left open")).unwrap();
    producer.flush(CALL).unwrap();
    producer
}

/// What an older version left open under the id without digits ends at the first start. Later
/// starts leave that id alone: another group's instance may have it.
#[test]
fn the_first_start_fences_the_former_id_and_no_later_one_does() {
    let sandbox = Sandbox::new(kafka(), "former", 1);
    kafka().create_topic("former.clean", 1);
    let instance = sandbox.instance(0);
    let former = former_transactional_id(&instance.config().kafka, 0).unwrap();
    assert_eq!(former, "veilstream-former-former-0-0");
    for is_first in [true, false] {
        let older = open(&former, "former.clean");
        let mut running = instance.start();
        running.ready();
        let committed = older.commit_transaction(CALL);
        match (is_first, &committed) {
            (true, Err(KafkaError::Transaction(error))) => assert!(error.is_fatal(), "{error:?}"),
            (false, Ok(())) => {}
            _ => panic!("first start {is_first}: {committed:?}\n{}", instance.tail()),
        }
        assert_eq!(
            instance.log().matches("the former transactional id is fenced").count(),
            2,
            "once, for each of two lanes"
        );
        assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    }
}
