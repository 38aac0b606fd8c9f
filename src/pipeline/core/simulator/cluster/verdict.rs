//! Each record once, or reported.

use super::{Cluster, Entry, Partition};

impl Cluster {
    pub(in crate::pipeline::core::simulator) fn check(&self) -> Result<(), String> {
        if let Some(why) = self.unreported.first() {
            return Err(why.clone());
        }
        match self.fates.iter().position(|fate| fate.committed > 1 && !fate.may_repeat) {
            Some(id) => Err(format!("record {id} came {} times", self.fates[id].committed)),
            None => Ok(()),
        }
    }

    fn is_missing(&self, id: usize) -> bool {
        let fate = self.fates[id];
        fate.committed == 0 && !fate.is_gone && !fate.is_before_start
    }

    pub(in crate::pipeline::core::simulator) fn is_at_rest(&self) -> bool {
        let is_open = self.producers.values().any(|p| p.open.is_some());
        let is_read = |(p, log): (usize, &Partition)| {
            self.committed.get(&p).is_some_and(|c| c.position.offset == log.entries.len() as i64)
        };
        !is_open
            && self.partitions.iter().enumerate().all(is_read)
            && (0..self.fates.len()).all(|id| !self.is_missing(id))
    }

    pub(in crate::pipeline::core::simulator) fn check_end(&self) -> Result<(), String> {
        if let Some(id) = (0..self.fates.len()).find(|id| self.is_missing(*id)) {
            let place = self.partitions.iter().enumerate().find_map(|(p, log)| {
                let offset = log
                    .entries
                    .iter()
                    .position(|e| matches!(e, Entry::Record { id: i, .. } if *i == id))?;
                Some(format!(
                    "partition {p} offset {offset}, committed {:?}, ends at {}",
                    self.committed.get(&p),
                    log.entries.len()
                ))
            });
            return Err(format!("record {id} never came: {place:?}"));
        }
        for (p, log) in self.partitions.iter().enumerate() {
            let committed = self.committed.get(&p).map(|c| c.position.offset);
            if committed != Some(log.entries.len() as i64) {
                return Err(format!(
                    "partition {p} is committed at {committed:?} of {}",
                    log.entries.len()
                ));
            }
        }
        Ok(())
    }
}
