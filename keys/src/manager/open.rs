//! How a manager comes to its store: a new one, or one whose head and ledger were checked.

use veilstream_engine::key::{KeyKind, Scope};

use super::minter::{Minter, Wrapper};
use super::shared::SharedKeys;
use super::subjects::SubjectKeys;
use super::{Manager, Parts, Settings};
use crate::KeyError;
use crate::erasure::{LedgerCursor, LedgerError, Position, Verifier, erase_again, first_line};
use crate::store::{Authentic, Head, STORE_TENANT, StoreError, StoreKeys, store_key_record};
use crate::wraps::secret_of;

impl Manager {
    /// Founds an empty store: its store key, line 0 of its ledger, its head.
    ///
    /// # Errors
    /// [`KeyError`]: it has been founded already, there is a ledger already, or a provider does not
    /// wrap.
    pub fn init(settings: Settings, parts: Parts, now: u64) -> Result<Self, KeyError> {
        if parts.store.head()?.is_some() {
            return Err(StoreError::Unusable {
                place: parts.store.place(),
                message: "is there already; nothing was changed".to_owned(),
            }
            .into());
        }
        let mut store = [0; 16];
        getrandom::fill(&mut store).map_err(|_| KeyError::Random)?;
        let tenant = STORE_TENANT.into();
        let minter = Minter::new(&tenant, &*parts.provider, parts.recovery.as_deref());
        let (record, secret) =
            minter.mint(KeyKind::Store, &Scope::Version(1), 1, now, &Wrapper::Providers)?;
        let keys = StoreKeys::of(&secret);
        let (line, position) = first_line(&keys, store, now);
        parts.ledger.append(0, &[line])?;
        parts.store.found(&record, &keys.head(&settings.tenant, store, 0, position.sha256))?;
        Self::open(settings, parts, now)
    }

    /// Checks the head and the ledger, erases what the ledger says and the store does not know,
    /// then loads the keys that processes share, which checks that the provider unwraps what the
    /// store holds. Mints nothing.
    ///
    /// # Errors
    /// Ledger or store cannot be read or are not as they should be, or the provider is not the one
    /// that wrapped the keys.
    pub fn open(settings: Settings, parts: Parts, now: u64) -> Result<Self, KeyError> {
        let manager = Self::open_checked(settings, parts, now, false)?;
        manager.shared.reload()?;
        Ok(manager)
    }

    /// [`Manager::open`] without loading keys: where the provider does not open them,
    /// [`Manager::rewrap`] may mend it. The store key is opened by the recovery provider where the
    /// provider does not open it.
    ///
    /// # Errors
    /// Ledger or store cannot be read or are not as they should be.
    pub fn open_to_recover(settings: Settings, parts: Parts, now: u64) -> Result<Self, KeyError> {
        Self::open_checked(settings, parts, now, true)
    }

    fn open_checked(
        settings: Settings,
        parts: Parts,
        now: u64,
        recover: bool,
    ) -> Result<Self, KeyError> {
        let (keys, head) = unlocked(&settings, &parts, recover)?;
        let lines = parts.ledger.read(0)?;
        let recorded = Verifier::new(&keys, head.store).take_all(
            &parts.ledger.place(),
            &lines,
            &Position::of(&head),
        )?;
        let mut manager = Self::over(settings, parts, keys, Position::of(&head));
        manager.shared.store().learn(&recorded);
        if recorded.last().is_some_and(|last| last.position.seq > head.seq) {
            let (_, shredded) = manager.ledger.append(manager.shared.store(), &[], now)?;
            manager.revived = shredded.iter().map(|one| one.kids.len() as u64).sum();
        }
        manager.revived += erase_again(manager.shared.store(), now)?;
        if manager.revived > 0 {
            manager.shared.store().scrub()?;
        }
        manager.eraser().forget_ended(now)?;
        Ok(manager)
    }

    fn over(settings: Settings, parts: Parts, keys: StoreKeys, known: Position) -> Self {
        let Parts { provider, recovery, store, ledger } = parts;
        let store = Authentic::new(store, keys, &settings.tenant);
        Self {
            subjects: SubjectKeys::new(&settings),
            shared: SharedKeys::new(settings.tenant, settings.wrapped, provider, recovery, store),
            ledger: LedgerCursor::new(ledger, known),
            rotation: settings.rotation,
            revived: 0,
        }
    }
}

/// The keys of the store, and its head, which they hold.
pub(super) fn unlocked(
    settings: &Settings,
    parts: &Parts,
    recover: bool,
) -> Result<(StoreKeys, Head), KeyError> {
    let store = &*parts.store;
    let head = store.head()?.ok_or_else(|| StoreError::Unfounded { place: store.place() })?;
    if head.tenant != settings.tenant {
        return Err(KeyError::OtherTenant {
            place: store.place(),
            found: head.tenant.to_string(),
            expected: settings.tenant.to_string(),
        });
    }
    let record = store_key_record(store)?;
    let keys = StoreKeys::of(&secret_of(
        &record,
        &*parts.provider,
        parts.recovery.as_deref().filter(|_| recover),
    )?);
    if keys.holds_head(&head) {
        Ok((keys, head))
    } else {
        Err(LedgerError::Head { place: store.place() }.into())
    }
}
