//! Provider `pkcs11` on SoftHSM.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[path = "support/provider_suite.rs"]
mod provider_suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use veilstream_keys::provider::{
    Pkcs11Provider, Pkcs11Settings, Provider, ProviderError, SecretText,
};

use provider_suite::{Sample, conformance, rotated_then_rewrapped};

/// Where Debian has it, on every architecture.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const TOKEN: &str = "veil";
const PIN: &str = "1234";

/// The module reads its configuration from the environment, which a test may not change: the tests
/// below run in a child, one after another, because sessions and login are the process's.
#[test]
fn on_softhsm() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = dir.path().join("softhsm2.conf");
    fs::write(
        &conf,
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = \
        ERROR\nslots.removable = false\n",
            tokens.display()
        ),
    )
    .unwrap();
    assert!(Path::new(MODULE).exists(), "{MODULE} is missing; run `make setup` (Debian: softhsm2)");
    let init = ["--init-token", "--free", "--label", TOKEN, "--so-pin", "4321", "--pin", PIN];
    assert!(
        Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", &conf)
            .args(init)
            .output()
            .unwrap()
            .status
            .success()
    );
    let child = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", &conf)
        .args(["--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(child.status.success(), "{said}");
    assert!(said.contains("4 passed"), "{said}");
}

fn settings(key: &str) -> Pkcs11Settings {
    let pin = SecretText::Given(PIN.to_owned().into());
    Pkcs11Settings {
        module: PathBuf::from(MODULE),
        token_label: TOKEN.to_owned(),
        key_label: key.to_owned(),
        pin,
    }
}

/// A session beside the provider's, to do what an operator does.
fn session() -> (Pkcs11, Session) {
    let module = Pkcs11::new(MODULE).unwrap();
    let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    let _ = session.login(UserType::User, Some(&AuthPin::from(PIN.to_owned())));
    (module, session)
}

fn make_key(label: &str, id: u8, may_decrypt: bool) {
    let (_, session) = session();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::ValueLen(32.into()),
        Attribute::Token(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(may_decrypt),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(vec![id]),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

#[test]
#[ignore = "run by on_softhsm"]
fn keeps_the_promises_of_a_provider() {
    make_key("conformance", 1, true);
    let provider = Pkcs11Provider::new(settings("conformance")).unwrap();
    conformance(&provider);
    let kek = provider.describe().unwrap();
    assert_eq!(
        (kek.uri.as_str(), kek.version.as_str()),
        ("pkcs11:token=veil;object=conformance", "01")
    );
}

#[test]
#[ignore = "run by on_softhsm"]
fn rotates_rewraps_and_says_which_version_is_gone() {
    make_key("rotates", 0xff, true);
    let provider = Pkcs11Provider::new(settings("rotates")).unwrap();
    let (sample, old) = rotated_then_rewrapped(&provider);
    assert_eq!(provider.describe().unwrap().version, "0100", "versions are numbers");
    let (_module, session) = session();
    let of_version = [Attribute::Label(b"rotates".to_vec()), Attribute::Id(vec![0xff])];
    for object in session.find_objects(&of_version).unwrap() {
        session.destroy_object(object).unwrap();
    }
    let error = provider.unwrap(&old, &sample.context()).unwrap_err();
    assert!(
        matches!(error, ProviderError::Disabled { .. }) && error.to_string().contains("id ff"),
        "{error}"
    );
}

#[test]
#[ignore = "run by on_softhsm"]
fn faults_of_token_key_and_pin_say_what_to_do() {
    let error = |settings: Pkcs11Settings| {
        Pkcs11Provider::new(settings).and_then(|provider| provider.describe()).unwrap_err()
    };
    let missing = error(settings("nowhere"));
    assert!(
        missing
            .to_string()
            .contains("pkcs11-tool --login --keygen --key-type AES:32 --id 01 --label nowhere"),
        "{missing}"
    );
    let token = error(Pkcs11Settings { token_label: "other".to_owned(), ..settings("x") });
    assert!(
        token.is_retryable() && token.to_string().contains("no token labelled other"),
        "{token}"
    );
    let module = error(Pkcs11Settings { module: "/nowhere.so".into(), ..settings("x") });
    assert!(matches!(module, ProviderError::Unusable { .. }), "{module}");
    assert!(matches!(error(settings("a;b")), ProviderError::Unusable { .. }));
    make_key("no-decrypt", 1, false);
    let provider = Pkcs11Provider::new(settings("no-decrypt")).unwrap();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let disabled = provider.unwrap(&wrap, &sample.context()).unwrap_err();
    assert!(matches!(disabled, ProviderError::Disabled { .. }), "{disabled}");
}

#[test]
#[ignore = "run by on_softhsm"]
fn a_lost_session_is_opened_again_and_a_refused_pin_is_not_tried_twice() {
    make_key("lost", 1, true);
    let provider = Pkcs11Provider::new(settings("lost")).unwrap();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let lose = || session().0.finalize().unwrap();
    lose();
    sample.opens(&provider, &wrap);
    lose();
    let wrong = SecretText::Given("0000".to_owned().into());
    let provider = Pkcs11Provider::new(Pkcs11Settings { pin: wrong, ..settings("lost") }).unwrap();
    let first = provider.describe().unwrap_err();
    assert!(
        matches!(first, ProviderError::Denied { .. }) && first.to_string().contains("is refused"),
        "{first}"
    );
    let second = provider.describe().unwrap_err();
    assert!(second.to_string().contains("was refused"), "not asked again: {second}");
    assert!(!format!("{first} {second}").contains("0000"));
}
