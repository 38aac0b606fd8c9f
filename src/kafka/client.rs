//! Clients of rust-rdkafka: the one place where they are made ([`super::producer`] makes our own
//! producers), so that each gets new credentials and tells why it is refused.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, ProducerContext};

use super::access::{Access, Member, Reporter};
use super::ffi::{Alive, Listener as _};
use super::settings::{self, Side};
use crate::config::Kafka;

/// Hears what a client's calls do not return.
pub(crate) struct Context(Arc<Reporter>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, text: &str) {
        report(&self.0, &error, text);
    }
}

impl ConsumerContext for Context {}

/// Writes librdkafka's own lines, which carry names and codes, into our log.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "veilstream::librdkafka", facility, "{text}");
        }
        _ => tracing::debug!(target: "veilstream::librdkafka", facility, "{text}"),
    }
}

/// Tells of an error event.
pub(crate) fn report(reporter: &Reporter, error: &KafkaError, text: &str) {
    if let Some(code) = error.rdkafka_error_code() {
        reporter.error(code, text);
    }
}

/// A client in the list of those that get new credentials.
pub(crate) struct Registered<T> {
    member: Member,
    client: Arc<T>,
}

impl<T> Registered<T> {
    /// See [`Member::is_outdated`].
    pub(crate) fn is_outdated(&self) -> bool {
        self.member.is_outdated()
    }

    /// The client, to be shared.
    pub(crate) fn shared(&self) -> &Arc<T> {
        &self.client
    }

    /// The client, and what keeps it in the list.
    pub(crate) fn into_parts(self) -> (Arc<T>, Member) {
        (self.client, self.member)
    }
}

impl<T> Deref for Registered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

/// A consumer for looking at topics.
pub(crate) type Consumer = BaseConsumer<Context>;

/// A consumer that messages call `name`, with properties of its own on top.
///
/// # Errors
/// librdkafka refuses the properties.
pub(crate) fn consumer(
    kafka: &Kafka,
    name: &str,
    own: &[(&str, &str)],
) -> Result<Registered<Consumer>, KafkaError> {
    consumer_with(
        kafka,
        name,
        |config| {
            config.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        },
        Context,
    )
}

/// [`consumer`] with a context of the caller's, who passes error events on to [`report`].
///
/// # Errors
/// As [`consumer`].
pub(crate) fn consumer_with<C: ConsumerContext + 'static>(
    kafka: &Kafka,
    name: &str,
    own: impl FnOnce(&mut ClientConfig),
    context: impl FnOnce(Arc<Reporter>) -> C,
) -> Result<Registered<BaseConsumer<C>>, KafkaError> {
    let access = Access::of(kafka, Side::Consumer);
    access.prepare();
    let generation = access.generation();
    let mut config: ClientConfig =
        settings::properties(kafka, Side::Consumer).into_iter().collect();
    own(&mut config);
    let client: Arc<BaseConsumer<C>> =
        Arc::new(config.create_with_context(context(access.reporter(name)))?);
    let member = access.register(client.clone() as Arc<dyn Alive>, generation, None);
    Ok(Registered { member, client })
}

/// A producer for a question: of rust-rdkafka, whose statistics it reads.
///
/// # Errors
/// librdkafka refuses the properties.
pub(crate) fn producer_with<C: ProducerContext + 'static>(
    kafka: &Kafka,
    properties: BTreeMap<String, String>,
    context: C,
) -> Result<Registered<BaseProducer<C>>, KafkaError> {
    producer_of(Access::of(kafka, Side::Producer), properties, |_| context)
}

/// A producer of rust-rdkafka that messages call `name`. Its context is the caller's, who passes
/// error events on to [`report`].
///
/// # Errors
/// librdkafka refuses the properties.
pub(crate) fn reporting_producer<C: ProducerContext + 'static>(
    kafka: &Kafka,
    name: &str,
    properties: BTreeMap<String, String>,
    context: impl FnOnce(Arc<Reporter>) -> C,
) -> Result<Registered<BaseProducer<C>>, KafkaError> {
    let access = Access::of(kafka, Side::Producer);
    producer_of(access, properties, |access| context(access.reporter(name)))
}

/// A producer that gets new credentials while it lives.
fn producer_of<C: ProducerContext + 'static>(
    access: Arc<Access>,
    mut properties: BTreeMap<String, String>,
    context: impl FnOnce(&Arc<Access>) -> C,
) -> Result<Registered<BaseProducer<C>>, KafkaError> {
    access.prepare();
    let generation = access.generation();
    access.apply(&mut properties);
    let config: ClientConfig = properties.into_iter().collect();
    let client: Arc<BaseProducer<C>> = Arc::new(config.create_with_context(context(&access))?);
    let member = access.register(client.clone() as Arc<dyn Alive>, generation, None);
    Ok(Registered { member, client })
}

/// A client for questions about topics and for making them.
///
/// # Errors
/// librdkafka refuses the properties.
pub(crate) fn admin(kafka: &Kafka) -> Result<Registered<AdminClient<Context>>, KafkaError> {
    let access = Access::of(kafka, Side::Producer);
    access.prepare();
    let generation = access.generation();
    let config: ClientConfig = settings::properties(kafka, Side::Producer).into_iter().collect();
    let reporter = access.reporter("admin client");
    let client: Arc<AdminClient<Context>> =
        Arc::new(config.create_with_context(Context(reporter.clone()))?);
    // It polls a queue of its own, not the one that errors come to.
    let member = access.register(client.clone() as Arc<dyn Alive>, generation, Some(reporter));
    Ok(Registered { member, client })
}
