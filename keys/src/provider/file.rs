//! Provider `file`: key-encrypting keys in a file of `<version> <standard base64 of 32 bytes>`
//! lines; the last one wraps.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::{WrapContext, unwrap_local, wrap_local};
use zeroize::Zeroizing;

use super::{Kek, Provider, ProviderError, Rotation, decode_key, nonce, refused};
use crate::files::{create_private, sync_folder_of};
use crate::store::Wrap;

const NAME: &str = "file";

/// Reads the file at each use: keys are unwrapped rarely, and a file that was replaced counts at
/// once.
pub struct FileProvider {
    path: PathBuf,
}

struct KekLine {
    version: String,
    kek: SecretKey,
}

impl FileProvider {
    /// Over the file at `path`, which is read once to tell faults early.
    ///
    /// # Errors
    /// It cannot be read, others may read it, or a line is wrong.
    pub fn new(path: PathBuf) -> Result<Self, ProviderError> {
        let provider = Self { path };
        provider.read()?;
        Ok(provider)
    }

    fn read(&self) -> Result<Vec<KekLine>, ProviderError> {
        read(&self.path)
            .map_err(|error| ProviderError::Unusable { provider: NAME, message: error.to_string() })
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    /// The version wraps since the file was last written: a new version is a new file.
    fn describe(&self) -> Result<Kek, ProviderError> {
        let Some(active) = self.read()?.pop() else {
            unreachable!("a file without lines is refused")
        };
        let since = fs::metadata(&self.path).ok().and_then(|meta| u64::try_from(meta.mtime()).ok());
        Ok(Kek {
            uri: NAME.to_owned(),
            version: active.version,
            since,
            rotation: Rotation::Operator,
        })
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        let Some(active) = self.read()?.pop() else {
            unreachable!("a file without lines is refused")
        };
        let wrapped = wrap_local(&active.kek, nonce(NAME)?, key, context);
        Ok(Wrap { kek_uri: NAME.to_owned(), kek_version: active.version, wrapped })
    }

    fn opens(&self, kek_uri: &str) -> bool {
        kek_uri == NAME
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let lines = self.read()?;
        let Some(line) = lines.iter().find(|line| line.version == wrap.kek_version) else {
            let message = format!(
                "{}: no line of version {}, which wraps key {}; put it back before the last line",
                self.path.display(),
                wrap.kek_version,
                context.kid
            );
            return Err(ProviderError::Unusable { provider: NAME, message });
        };
        unwrap_local(&line.kek, &wrap.wrapped, context).map_err(refused(
            NAME,
            context,
            "another key-encrypting key",
        ))
    }

    fn rotate(&self, now: u64) -> Result<Kek, ProviderError> {
        self.read()?;
        add_line(&self.path, now).map_err(|e| ProviderError::Unusable {
            provider: NAME,
            message: format!(
                "{} cannot be written again ({e}); add a line `<version> <base64 of \
                32 bytes>` to it where it is made",
                self.path.display()
            ),
        })?;
        self.describe()
    }
}

/// Makes a file with one fresh key-encrypting key, mode 0600. Never overwrites.
///
/// # Errors
/// It exists, cannot be written, or there are no random bytes.
pub fn create_kek_file(path: &Path) -> io::Result<()> {
    let mut file = create_private(path)?;
    file.write_all(fresh_line("1")?.as_bytes())?;
    file.sync_all()?;
    sync_folder_of(path)
}

/// Writes the file again with one line more and puts it in the place of the old one. The new file's
/// name is the lock: of two that do it at once one fails.
fn add_line(path: &Path, now: u64) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut file = create_private(&new).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => io::Error::other(format!(
            "{} is there: somebody else is at it, or was killed at it; then remove that file",
            new.display()
        )),
        _ => e,
    })?;
    let written = (|| {
        // Read under the lock: another one may have added a line since.
        let text = Zeroizing::new(fs::read_to_string(path)?);
        let versions = text.lines().filter_map(|line| line.split_whitespace().next());
        let next =
            versions.filter_map(|version| version.parse::<u64>().ok()).max().unwrap_or(0) + 1;
        file.write_all(text.trim_end().as_bytes())?;
        file.write_all(b"\n")?;
        file.write_all(fresh_line(&next.to_string())?.as_bytes())?;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(now))?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        // The old file is as it was.
        let _ = fs::remove_file(&new);
    }
    written.and_then(|()| sync_folder_of(path))
}

fn fresh_line(version: &str) -> io::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *key).map_err(io::Error::other)?;
    // Room for all of it first: a string that grows leaves a copy behind.
    let mut line = Zeroizing::new(String::with_capacity(version.len() + 46));
    line.push_str(version);
    line.push(' ');
    STANDARD.encode_string(*key, &mut line);
    line.push('\n');
    Ok(line)
}

fn read(path: &Path) -> Result<Vec<KekLine>, KekFileError> {
    let at = || path.to_owned();
    let meta = fs::metadata(path).map_err(|source| KekFileError::Missing { path: at(), source })?;
    if meta.mode() & 0o077 != 0 {
        return Err(KekFileError::Open { path: at(), mode: meta.mode() & 0o7777 });
    }
    let text = Zeroizing::new(
        fs::read_to_string(path)
            .map_err(|source| KekFileError::Unreadable { path: at(), source })?,
    );
    let mut lines: Vec<KekLine> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why| KekFileError::Line { path: at(), number: number + 1, why };
        let line = read_line(line.trim()).map_err(wrong)?;
        if lines.iter().any(|known| known.version == line.version) {
            return Err(wrong(WrongLine::Version));
        }
        lines.push(line);
    }
    if lines.is_empty() { Err(KekFileError::Empty { path: at() }) } else { Ok(lines) }
}

fn read_line(line: &str) -> Result<KekLine, WrongLine> {
    let (version, encoded) = line.split_once(' ').ok_or(WrongLine::NoVersion)?;
    let kek = decode_key(encoded.trim()).ok_or(WrongLine::NoKey)?;
    Ok(KekLine { version: version.to_owned(), kek })
}

/// The file of key-encrypting keys is not as it must be. The operator mends it; the message says
/// where and how, and holds nothing of a line.
#[derive(Debug, thiserror::Error)]
enum KekFileError {
    #[error("{} cannot be read ({source}); make it with `veilstream keys init`", path.display())]
    Missing { path: PathBuf, source: io::Error },
    /// `mode`: its permissions.
    #[error(
        "{path} may be read by others (mode {mode:04o}); run: chmod 600 {path}",
        path = path.display()
    )]
    Open { path: PathBuf, mode: u32 },
    #[error("{} cannot be read ({source})", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// `number`: counted from 1.
    #[error(
        "{}, line {number}: {why}; write `<version> <base64 of 32 bytes>`",
        path.display()
    )]
    Line { path: PathBuf, number: usize, why: WrongLine },
    #[error("{} holds no key; make one with `veilstream keys init`", path.display())]
    Empty { path: PathBuf },
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
enum WrongLine {
    #[error("has no version")]
    NoVersion,
    #[error("does not hold 32 bytes in base64")]
    NoKey,
    #[error("has the version of another line")]
    Version,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const A: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const B: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn fault(text: &str, mode: u32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        FileProvider::new(path).err().unwrap().to_string()
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        for mode in [0o640, 0o604, 0o660, 0o666] {
            let error = fault(&format!("1 {A}\n"), mode);
            assert!(error.contains("run: chmod 600 "), "{error}");
        }
    }

    #[test]
    fn faults_name_the_line_and_hold_no_key() {
        for (text, line) in [
            (format!("1 {A}\n2\n"), 2),
            (format!("1 {A}\n1 {B}\n"), 2),
            (format!("{A}\n"), 1),
            (format!("1 {A}A\n"), 1),
        ] {
            let error = fault(&text, 0o600);
            assert!(error.contains(&format!("line {line}: ")), "{error}");
            assert!(!error.contains(&A[..8]) && !error.contains(&B[..8]), "{error}");
        }
        assert!(fault("\n", 0o600).contains("holds no key"));
    }

    #[test]
    fn a_made_file_is_private_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        create_kek_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path).unwrap()[0].version, "1");
        assert_eq!(create_kek_file(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_new_version_is_added_and_wraps_and_the_old_one_opens() {
        use veilstream_engine::key::{KeyKind, Scope};

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        create_kek_file(&path).unwrap();
        let provider = FileProvider::new(path.clone()).unwrap();
        let key = SecretKey::new([5; 32]);
        let kid = veilstream_engine::kdf::key_id(&veilstream_engine::kdf::key_check_value(&key));
        let context =
            WrapContext { kid, kind: KeyKind::Index, tenant: "default", scope: &Scope::Version(1) };
        let old = provider.wrap(&key, &context).unwrap();
        let kek = provider.rotate(1_800_000_000).unwrap();
        assert_eq!((kek.version.as_str(), kek.since), ("2", Some(1_800_000_000)));
        let new = provider.wrap(&key, &context).unwrap();
        assert_eq!((old.kek_version.as_str(), new.kek_version.as_str()), ("1", "2"));
        for wrap in [&old, &new] {
            assert_eq!(provider.unwrap(wrap, &context).unwrap().expose(), key.expose());
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        // A new file that is in the way is somebody's: nothing is changed.
        fs::write(dir.path().join("kek.new"), "").unwrap();
        let error = provider.rotate(1_800_000_001).unwrap_err().to_string();
        assert!(error.contains("kek.new is there"), "{error}");
        assert_eq!(provider.describe().unwrap().version, "2");
    }
}
