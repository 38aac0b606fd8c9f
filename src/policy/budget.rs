//! Disclosure budgets: how many data subjects one principal may read, and how many values it may
//! search, in any 24 hours. Pure: time is an argument.

mod meter;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

pub use meter::Unit;
use meter::{DAY, Meter};

use crate::config::{Limit, Policy};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Distinct data subjects disclosed.
    Subjects,
    /// Distinct values searched.
    Values,
}

/// The ends of all budgets of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetLimits {
    purposes: HashMap<Arc<str>, Ends>,
    over_all: Ends,
}

/// The ends of one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    subjects: Limit,
    values: Limit,
}

impl BudgetLimits {
    /// The budgets of a configuration, divided among so many instances, rounded down. A purpose
    /// without a budget has the default one. Without a budget over all purposes, the largest of the
    /// purposes' counts.
    #[must_use]
    pub fn new(policy: &Policy, instances: NonZeroU32) -> Self {
        let configured = |name: Option<&str>| {
            let budget = policy.budgets.iter().find(|budget| budget.purpose.as_deref() == name);
            budget.map(|budget| Ends { subjects: budget.subjects, values: budget.values })
        };
        let default = Ends { subjects: Limit::SUBJECTS, values: Limit::VALUES };
        let of = |name: &str| configured(Some(name)).unwrap_or(default);
        let purposes: HashMap<Arc<str>, Ends> = policy
            .purposes
            .iter()
            .map(|purpose| (purpose.name.as_str().into(), of(&purpose.name)))
            .collect();
        let over_all = configured(None).unwrap_or_else(|| Ends {
            subjects: largest(purposes.values().map(|ends| ends.subjects)),
            values: largest(purposes.values().map(|ends| ends.values)),
        });
        let share = |ends: Ends| Ends {
            subjects: share(ends.subjects, instances),
            values: share(ends.values, instances),
        };
        Self {
            purposes: purposes.into_iter().map(|(name, ends)| (name, share(ends))).collect(),
            over_all: share(over_all),
        }
    }

    /// How much one principal may have for a purpose, of this instance; the budget over all
    /// purposes counts where it is smaller. `None`: no such purpose.
    #[must_use]
    pub fn of_purpose(&self, purpose: &str, counted: Counted) -> Option<Limit> {
        let own = self.purposes.get(purpose)?.of(counted);
        Some(match (own, self.over_all.of(counted)) {
            (Limit::Count(a), Limit::Count(b)) => Limit::Count(a.min(b)),
            (Limit::Unlimited, limit) | (limit, Limit::Unlimited) => limit,
        })
    }
}

impl Ends {
    fn of(self, counted: Counted) -> Limit {
        match counted {
            Counted::Subjects => self.subjects,
            Counted::Values => self.values,
        }
    }
}

fn largest(limits: impl Iterator<Item = Limit>) -> Limit {
    limits.fold(Limit::Count(0), |a, b| match (a, b) {
        (Limit::Count(a), Limit::Count(b)) => Limit::Count(a.max(b)),
        _ => Limit::Unlimited,
    })
}

fn share(limit: Limit, instances: NonZeroU32) -> Limit {
    match limit {
        Limit::Count(count) => Limit::Count(count / u64::from(instances.get())),
        Limit::Unlimited => Limit::Unlimited,
    }
}

/// A disclosure of the past, as the audit tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosure {
    /// Seconds since the epoch.
    pub time: u64,
    /// Whose: the id that the audit has.
    pub principal: Arc<str>,
    /// For what.
    pub purpose: Arc<str>,
    /// What is counted.
    pub counted: Counted,
    /// What was disclosed or searched.
    pub units: Vec<Unit>,
}

/// A budget has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetSpent {
    /// The principal's budget for this purpose.
    #[error("the principal's budget for this purpose is spent")]
    Purpose,
    /// The principal's budget over all purposes.
    #[error("the principal's budget over all purposes is spent")]
    OverAll,
}

/// What each principal had in the last 24 hours.
#[derive(Debug)]
pub struct Budgets {
    limits: BudgetLimits,
    /// The latest time seen, in seconds: a clock that goes back frees nothing.
    latest: u64,
    /// Until then all limited budgets count as spent.
    spent_until: Option<u64>,
    meters: HashMap<MeterName, Meter>,
    /// When meters with nothing left in them were dropped last.
    swept: u64,
}

/// Whose, for what (`None`: over all purposes), and what is counted.
type MeterName = (Arc<str>, Option<Arc<str>>, Counted);

/// The budgets of one principal that a request draws from.
pub struct Account<'b> {
    /// `None`: unlimited.
    budgets: [Option<Budget<'b>>; 2],
    now: u64,
}

struct Budget<'b> {
    /// `None`: it has no room.
    meter: Option<&'b mut Meter>,
    limit: u64,
    spent: BudgetSpent,
}

impl Account<'_> {
    /// [`Budgets::reserve`] of one unit.
    ///
    /// # Errors
    /// No room: nothing is reserved, and the unit is denied.
    pub fn reserve(&mut self, unit: Unit) -> Result<(), BudgetSpent> {
        let now = self.now;
        for Budget { meter, limit, spent } in self.budgets.iter_mut().flatten() {
            let Some(meter) = meter else { return Err(*spent) };
            meter.forget(now);
            if !meter.holds(&unit) && meter.count() >= *limit {
                return Err(*spent);
            }
        }
        for meter in self.budgets.iter_mut().flatten().filter_map(|budget| budget.meter.as_mut()) {
            meter.charge(now, unit);
        }
        Ok(())
    }
}

impl Budgets {
    /// Nothing spent.
    #[must_use]
    pub fn new(limits: BudgetLimits) -> Self {
        Self { limits, latest: 0, spent_until: None, meters: HashMap::new(), swept: 0 }
    }

    /// Nobody knows what was spent up to `time`: all of it, until 24 hours later.
    #[must_use]
    pub fn unknown_until(self, time: u64) -> Self {
        Self { spent_until: Some(time.saturating_add(DAY)), ..self }
    }

    /// What the disclosures of the past left at `now`, in any order. They stand as they are, also
    /// beyond a limit that was lowered since.
    #[must_use]
    pub fn rebuild(
        limits: BudgetLimits,
        past: impl IntoIterator<Item = Disclosure>,
        now: u64,
    ) -> Self {
        let mut budgets = Self { latest: now, ..Self::new(limits) };
        for disclosure in past {
            let Disclosure { time, principal, purpose, counted, units } = disclosure;
            budgets.latest = budgets.latest.max(time);
            for purpose in [Some(purpose), None] {
                if let Limit::Count(_) = budgets.limit(purpose.as_deref(), counted) {
                    let name = (principal.clone(), purpose, counted);
                    let meter = budgets.meters.entry(name).or_default();
                    units.iter().for_each(|unit| meter.charge(time, *unit));
                }
            }
        }
        budgets.sweep();
        budgets
    }

    /// Reserves a unit before it is opened or searched; it stays spent whatever comes of it. A
    /// reference that was reserved in the last 24 hours costs nothing.
    ///
    /// # Errors
    /// No room: nothing is reserved, and the unit is denied.
    pub fn reserve(
        &mut self,
        now: u64,
        principal: &Arc<str>,
        purpose: &Arc<str>,
        counted: Counted,
        unit: Unit,
    ) -> Result<(), BudgetSpent> {
        self.account(now, principal, purpose, counted).reserve(unit)
    }

    /// What one principal has for a purpose and over all of them, for several units.
    pub fn account(
        &mut self,
        now: u64,
        principal: &Arc<str>,
        purpose: &Arc<str>,
        counted: Counted,
    ) -> Account<'_> {
        self.latest = self.latest.max(now);
        if self.latest >= self.swept.saturating_add(3600) {
            self.sweep();
        }
        let names =
            [Some(purpose), None].map(|purpose| (principal.clone(), purpose.cloned(), counted));
        let ends = [Some(&**purpose), None].map(|purpose| self.limit(purpose, counted));
        for (name, end) in names.iter().zip(ends) {
            // Of what has no room nothing is kept: a purpose that nobody configured is the caller's
            // text.
            if matches!(end, Limit::Count(1..)) {
                self.meters.entry(name.clone()).or_default();
            }
        }
        let is_spent = self.spent_until.is_some_and(|until| self.latest <= until);
        let [own, over_all] = self.meters.get_disjoint_mut([&names[0], &names[1]]);
        let budget = |meter, end, spent| match end {
            Limit::Unlimited => None,
            Limit::Count(limit) if is_spent => Some(Budget { meter: None, limit, spent }),
            Limit::Count(limit) => Some(Budget { meter, limit, spent }),
        };
        let budgets = [
            budget(own, ends[0], BudgetSpent::Purpose),
            budget(over_all, ends[1], BudgetSpent::OverAll),
        ];
        Account { budgets, now: self.latest }
    }

    /// The end of a budget; nothing for a purpose that is not configured.
    fn limit(&self, purpose: Option<&str>, counted: Counted) -> Limit {
        match purpose {
            None => self.limits.over_all.of(counted),
            Some(purpose) => {
                self.limits.purposes.get(purpose).map_or(Limit::Count(0), |ends| ends.of(counted))
            }
        }
    }

    fn sweep(&mut self) {
        let now = self.latest;
        self.swept = now;
        self.meters.retain(|_, meter| {
            meter.forget(now);
            meter.count() > 0
        });
    }
}

#[cfg(test)]
mod tests;
