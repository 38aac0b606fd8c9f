//! What a command writes in transactions, one after another.

use std::sync::Arc;

use rdkafka::TopicPartitionList;

use super::client::Consumer;
use super::error::{ClientError, Fault, TxnError};
use super::ffi::{Destination, GroupMetadata, Headers};
use super::producer::{Producer, Recipe, Unproduced};
use super::reader::SILENCE;

/// Why a writer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// A client cannot be made.
    #[error("kafka: {0}")]
    Client(ClientError),
    /// A transaction failed.
    #[error("kafka: {0}")]
    Transaction(#[from] TxnError),
    /// The group coordinator does not take the offsets.
    #[error("the group coordinator does not take the offsets; run it again")]
    Unanswered,
    /// librdkafka is out of memory.
    #[error("out of memory")]
    OutOfMemory,
}

/// Why a write failed.
#[derive(Debug)]
pub(crate) enum WriteFailure {
    /// The transaction is to be aborted.
    Transaction(Fault),
    /// The writer cannot go on.
    Error(WriterError),
}

impl<E: Into<WriterError>> From<E> for WriteFailure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// The producer of a command. One id for all who run it: the second fences the first.
pub(crate) struct TransactionWriter {
    recipe: Recipe,
    /// `None` after a call that did not return.
    producer: Option<Producer>,
    open: bool,
}

impl TransactionWriter {
    /// A writer that has fenced all before it.
    ///
    /// # Errors
    /// [`WriterError`].
    pub(crate) fn new(recipe: Recipe) -> Result<Self, WriterError> {
        let mut writer = Self { recipe, producer: None, open: false };
        writer.renew()?;
        Ok(writer)
    }

    /// A new producer, which aborts what the old one left open.
    ///
    /// # Errors
    /// [`WriterError`].
    pub(crate) fn renew(&mut self) -> Result<(), WriterError> {
        self.producer = None;
        self.open = false;
        let producer = self.recipe.create().map_err(WriterError::Client)?;
        producer.init_transactions(SILENCE)?;
        self.producer = Some(producer);
        Ok(())
    }

    /// Aborts what is open, if that can be done now; otherwise the next run does it.
    pub(crate) fn abort(&mut self) {
        if let Some(error) =
            self.producer.as_ref().filter(|_| self.open).and_then(|producer| producer.abort().err())
        {
            tracing::warn!(code = %error, "the open transaction was not aborted; its time-out or \
                the next run ends it");
        }
        self.open = false;
    }

    fn alive(&mut self) -> Result<&mut Producer, WriterError> {
        self.producer.as_mut().ok_or(WriterError::Unanswered)
    }

    /// Begins a transaction, unless one is open.
    ///
    /// # Errors
    /// [`WriterError`].
    pub(crate) fn begin(&mut self) -> Result<(), WriterError> {
        if !self.open {
            self.alive()?.begin()?;
            self.open = true;
        }
        Ok(())
    }

    /// Queues a record; `false`: the client refuses its size.
    ///
    /// # Errors
    /// [`WriteFailure`].
    pub(crate) fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) -> Result<bool, WriteFailure> {
        let producer = self.alive()?;
        let topic = producer.topic(topic).ok_or(WriterError::OutOfMemory)?;
        match producer.produce(
            Destination { topic, partition, timestamp },
            key,
            value,
            headers,
            || true,
        ) {
            Ok(()) => Ok(true),
            Err(Unproduced::TooLarge) => Ok(false),
            Err(Unproduced::Failed(fault)) => Err(WriteFailure::Transaction(fault)),
        }
    }

    /// Commits what was written, with the offsets of `consumer`'s group.
    ///
    /// # Errors
    /// [`WriteFailure`].
    pub(crate) fn commit(
        &mut self,
        consumer: &Consumer,
        offsets: Option<TopicPartitionList>,
    ) -> Result<(), WriteFailure> {
        self.begin()?;
        self.alive()?.flush(|| true).map_err(WriteFailure::Transaction)?;
        let committed = match offsets {
            None => self.alive()?.commit_records(),
            Some(offsets) => {
                // It names no member, for nobody joins the group: the transactional id is what
                // keeps a second run out.
                let group = GroupMetadata::of(consumer).ok_or(WriterError::OutOfMemory)?;
                let producer = self.alive()?;
                let committed = producer.commit(offsets, Arc::new(group));
                if producer.is_hung() {
                    self.producer = None;
                }
                committed
            }
        };
        match committed {
            Ok(false) => self.open = false,
            // The broker may still act on a request that it did not answer: not on the next
            // transaction.
            Ok(true) => self.renew()?,
            Err(error) => {
                return Err(WriteFailure::Transaction(
                    self.alive()?.delivery_fault().unwrap_or_else(|| error.fault()),
                ));
            }
        }
        Ok(())
    }
}
