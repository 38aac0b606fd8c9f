use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::config::{Budget, Purpose};

const HOUR: u64 = 3600;

fn policy(budgets: &[(Option<&str>, Limit, Limit)]) -> Policy {
    let purpose =
        |name: &str| Purpose { name: name.to_owned(), reason_required: false, pattern: None };
    Policy {
        dir: "policies".into(),
        purposes: ["support", "fraud"].map(purpose).to_vec(),
        budgets: budgets
            .iter()
            .map(|(purpose, subjects, values)| Budget {
                purpose: purpose.map(str::to_owned),
                subjects: *subjects,
                values: *values,
            })
            .collect(),
    }
}

/// Of one instance: `support` and over all so many subjects, everything else without end.
fn limits(support: u64, over_all: u64) -> BudgetLimits {
    let policy = policy(&[
        (Some("support"), Limit::Count(support), Limit::Unlimited),
        (Some("fraud"), Limit::Unlimited, Limit::Unlimited),
        (None, Limit::Count(over_all), Limit::Unlimited),
    ]);
    BudgetLimits::new(&policy, NonZeroU32::MIN)
}

fn person(n: u8) -> Unit {
    Unit::Reference([n; 16])
}

/// Reserves a subject for one principal.
fn reserve(budgets: &mut Budgets, now: u64, purpose: &str, unit: Unit) -> Result<(), BudgetSpent> {
    budgets.reserve(now, &"key:crm".into(), &purpose.into(), Counted::Subjects, unit)
}

#[test]
fn a_subject_counts_once_in_any_24_hours() {
    let mut budgets = Budgets::new(limits(2, 9));
    for now in [0, 10, 20] {
        assert_eq!(reserve(&mut budgets, now, "support", person(1)), Ok(()));
    }
    assert_eq!(reserve(&mut budgets, 30, "support", person(2)), Ok(()));
    assert_eq!(reserve(&mut budgets, 40, "support", person(3)), Err(BudgetSpent::Purpose));
    // The window slides: no midnight at which all of it comes back.
    assert_eq!(reserve(&mut budgets, DAY + 20, "support", person(3)), Err(BudgetSpent::Purpose));
    assert_eq!(reserve(&mut budgets, DAY + 21, "support", person(3)), Ok(()));
    assert_eq!(reserve(&mut budgets, DAY + 22, "support", person(4)), Err(BudgetSpent::Purpose));
}

#[test]
fn what_names_nobody_counts_each_time() {
    let mut budgets = Budgets::new(limits(2, 9));
    assert_eq!(reserve(&mut budgets, 5, "support", Unit::Anonymous), Ok(()));
    assert_eq!(reserve(&mut budgets, 5, "support", Unit::Anonymous), Ok(()));
    let spent = Err(BudgetSpent::Purpose);
    assert_eq!(reserve(&mut budgets, 5, "support", Unit::Anonymous), spent);
    assert_eq!(reserve(&mut budgets, 6, "support", person(1)), spent);
    assert_eq!(reserve(&mut budgets, DAY + 6, "support", Unit::Anonymous), Ok(()));
}

#[test]
fn principals_and_meters_have_budgets_of_their_own_and_purposes_one_together() {
    let mut budgets = Budgets::new(limits(2, 3));
    for n in 0..2 {
        assert_eq!(reserve(&mut budgets, 0, "support", person(n)), Ok(()));
    }
    assert_eq!(reserve(&mut budgets, 0, "fraud", person(2)), Ok(()));
    assert_eq!(reserve(&mut budgets, 0, "fraud", person(3)), Err(BudgetSpent::OverAll));
    assert_eq!(reserve(&mut budgets, 0, "fraud", person(0)), Ok(()), "one person over all");
    let other = "key:erp".into();
    let support = "support".into();
    assert_eq!(budgets.reserve(0, &other, &support, Counted::Subjects, person(3)), Ok(()));
    let crm = "key:crm".into();
    assert_eq!(budgets.reserve(0, &crm, &support, Counted::Values, person(9)), Ok(()));
}

#[test]
fn a_refused_unit_spends_nothing() {
    let mut budgets = Budgets::new(limits(2, 1));
    assert_eq!(reserve(&mut budgets, 0, "fraud", person(1)), Ok(()));
    for n in 2..9 {
        assert_eq!(reserve(&mut budgets, 1, "support", person(n)), Err(BudgetSpent::OverAll));
    }
    assert_eq!(reserve(&mut budgets, DAY + 1, "support", person(2)), Ok(()));
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    let mut budgets = Budgets::new(limits(1, 9));
    assert_eq!(reserve(&mut budgets, 10 * DAY, "support", person(1)), Ok(()));
    for now in [0, 5 * DAY, 9 * DAY, 11 * DAY] {
        let answer = reserve(&mut budgets, now, "support", person(2));
        assert_eq!(answer, Err(BudgetSpent::Purpose), "at {now}");
    }
    assert_eq!(reserve(&mut budgets, 11 * DAY + 1, "support", person(2)), Ok(()));
    // What is read while the clock stands back counts from the latest time there was.
    let mut budgets = Budgets::new(limits(2, 9));
    assert_eq!(reserve(&mut budgets, 10 * DAY, "support", person(1)), Ok(()));
    assert_eq!(reserve(&mut budgets, 3 * DAY, "support", person(2)), Ok(()));
    let answer = reserve(&mut budgets, 10 * DAY + HOUR, "support", person(3));
    assert_eq!(answer, Err(BudgetSpent::Purpose));
}

#[test]
fn an_unknown_past_is_a_spent_one() {
    let mut budgets = Budgets::new(limits(5, 9)).unknown_until(1000);
    assert_eq!(reserve(&mut budgets, 1000, "support", person(1)), Err(BudgetSpent::Purpose));
    assert_eq!(reserve(&mut budgets, 1000 + DAY, "fraud", person(1)), Err(BudgetSpent::OverAll));
    assert_eq!(reserve(&mut budgets, 1001 + DAY, "support", person(1)), Ok(()));
    let free = BudgetLimits::new(
        &policy(&[(Some("fraud"), Limit::Unlimited, Limit::Unlimited)]),
        NonZeroU32::MIN,
    );
    let mut budgets = Budgets::new(free).unknown_until(1000);
    assert_eq!(reserve(&mut budgets, 1000, "fraud", person(1)), Ok(()), "no end, nothing spent");
}

#[test]
fn instances_share_and_defaults_have_an_end() {
    let three = NonZeroU32::new(3).unwrap();
    let limits = BudgetLimits::new(&policy(&[]), three);
    assert_eq!(limits.of_purpose("support", Counted::Subjects), Some(Limit::Count(333)));
    assert_eq!(limits.of_purpose("support", Counted::Values), Some(Limit::Count(33)));
    assert_eq!(limits.of_purpose("marketing", Counted::Values), None);
    let small = policy(&[(None, Limit::Count(2), Limit::Unlimited)]);
    let limits = BudgetLimits::new(&small, three);
    assert_eq!(limits.of_purpose("fraud", Counted::Subjects), Some(Limit::Count(0)));
    let mut budgets = Budgets::new(limits);
    assert_eq!(reserve(&mut budgets, 0, "fraud", person(1)), Err(BudgetSpent::OverAll));
    assert_eq!(reserve(&mut budgets, 0, "marketing", person(1)), Err(BudgetSpent::Purpose));
}

#[test]
fn a_restart_changes_nothing() {
    let mut before = Budgets::new(limits(3, 9));
    let mut past = Vec::new();
    for (hour, n) in [(1, 1), (20, 2), (22, 1)] {
        reserve(&mut before, hour * HOUR, "support", person(n)).unwrap();
        past.push(Disclosure {
            time: hour * HOUR,
            principal: "key:crm".into(),
            purpose: "support".into(),
            counted: Counted::Subjects,
            units: vec![person(n)],
        });
    }
    // Lines of several chains come in no order.
    past.reverse();
    let mut after = Budgets::rebuild(limits(3, 9), past, 23 * HOUR);
    for budgets in [&mut before, &mut after] {
        assert_eq!(reserve(budgets, 26 * HOUR, "support", Unit::Anonymous), Ok(()));
        let spent = Err(BudgetSpent::Purpose);
        assert_eq!(reserve(budgets, 44 * HOUR, "support", person(4)), spent);
        assert_eq!(reserve(budgets, 44 * HOUR + 1, "support", person(4)), Ok(()));
        assert_eq!(reserve(budgets, 44 * HOUR + 1, "support", person(5)), spent);
    }
}

#[test]
fn principals_that_went_away_take_no_memory() {
    let mut budgets = Budgets::new(limits(9, 9));
    for n in 0..50_u8 {
        let principal = format!("jwt:corp:{n}").into();
        let at = u64::from(n);
        budgets.reserve(at, &principal, &"support".into(), Counted::Subjects, person(n)).unwrap();
    }
    assert_eq!(budgets.meters.len(), 100, "of the purpose, and over all");
    reserve(&mut budgets, 2 * DAY, "support", person(1)).unwrap();
    assert_eq!(budgets.meters.len(), 2);
}

proptest! {
    /// Whatever is asked when: what was granted in any 24 hours is within the limit, and a refusal
    /// had a full window behind it.
    #[test]
    fn no_window_has_more_than_the_limit(
        limit in 1..6_u64,
        asked in prop::collection::vec((0..3 * HOUR, 0..12_u8), 1..120),
    ) {
        let mut budgets = Budgets::new(limits(limit, 1000));
        let (mut now, mut granted) = (0, Vec::<(u64, u8)>::new());
        for (pause, n) in asked {
            now += pause;
            let answer = reserve(&mut budgets, now, "support", person(n));
            let recent: HashMap<u8, u64> = granted
                .iter()
                .filter(|(at, _)| now - at <= DAY)
                .map(|(at, n)| (*n, *at))
                .collect();
            let has_room = recent.contains_key(&n) || (recent.len() as u64) < limit;
            prop_assert_eq!(answer.is_ok(), has_room, "at {} for {}: {:?}", now, n, recent);
            if answer.is_ok() {
                granted.push((now, n));
            }
        }
    }
}
