//! A real PostgreSQL server, one for each test binary, and databases on it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary takes what it needs; a test ends where it fails"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, NoTls};

use crate::ports::free_port;

/// The password of the user `veil`, who owns the databases and nothing else.
pub(crate) const PASSWORD: &str = "Tr0ub4dor";

/// Makes the server, says where it is and stops it when nobody holds the other end of its input any
/// more: also after a panic or a kill of the test. Everything is made by the user `postgres`,
/// because the server refuses to run as root.
const SCRIPT: &str = r#"
set -eu
dir=$(mktemp -d /tmp/veilstream-postgres.XXXXXX)
cd "$dir"
trap '"$1/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT
chmod 755 "$dir"
"$1/initdb" -D data -A trust -U postgres --no-sync -E UTF8 --locale=C >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
for ca in ca other-ca; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$ca" -keyout "$ca.key" -out "$ca.pem" 2>openssl.log || { cat openssl.log >&2; exit 1; }
done
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout data/server.key -out server.csr 2>openssl.log
echo subjectAltName=DNS:localhost >san
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out data/server.crt 2>openssl.log || { cat openssl.log >&2; exit 1; }
chmod 600 data/server.key
printf 'host all veil all scram-sha-256\nhost all all all trust\nlocal all all trust\n' >data/pg_hba.conf
cat >>data/postgresql.conf <<CONF
port = $2
listen_addresses = 'localhost'
unix_socket_directories = '$dir'
ssl = on
shared_buffers = 256MB
log_line_prefix = '%d '
max_wal_size = 4GB
# Tests look at dead rows.
autovacuum_naptime = 1h
# What a careless administrator may have set: the store must not be weakened by it.
synchronous_commit = off
default_transaction_isolation = 'serializable'
CONF
"$1/pg_ctl" -D "$dir/data" -l server.log -w start >start.log 2>&1 || { cat start.log server.log >&2; exit 1; }
echo "$dir"
cat >/dev/null
"#;

pub(crate) struct Server {
    /// Where its programs are.
    pub(crate) bin: PathBuf,
    pub(crate) port: u16,
    /// With `ca.pem`, `other-ca.pem`, the data and the log.
    pub(crate) dir: PathBuf,
    /// Its input is held open until this process ends.
    _watchdog: Child,
}

/// The server of this test binary.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

impl Server {
    /// One more, for tests that stop it.
    pub(crate) fn start() -> Self {
        let bin = binaries();
        let port = free_port();
        let mut command = as_postgres("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&bin).arg(port.to_string());
        // In a group of its own: an interrupt of the tests must not kill who cleans up.
        let mut watchdog = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut dir = String::new();
        BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut dir).unwrap();
        assert!(!dir.is_empty(), "the PostgreSQL server did not start; see above");
        let server = Self { bin, port, dir: dir.trim().into(), _watchdog: watchdog };
        server
            .admin("postgres")
            .batch_execute(&format!(
                "SET password_encryption = \
            'scram-sha-256'; CREATE ROLE veil LOGIN PASSWORD '{PASSWORD}'"
            ))
            .unwrap();
        server
    }

    /// A new empty database that belongs to `veil`.
    pub(crate) fn database(&'static self) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("keys{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let database = Database { server: self, name };
        database.make();
        database
    }

    /// As the superuser.
    pub(crate) fn admin(&self, database: &str) -> Client {
        let mut client = Client::connect(
            &format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port),
            NoTls,
        )
        .unwrap();
        client.batch_execute("SET default_transaction_isolation = 'read committed'").unwrap();
        client
    }

    /// A URL with any host and password.
    pub(crate) fn url(&self, host: &str, password: &str, database: &str) -> String {
        format!("postgres://veil:{password}@{host}:{}/{database}", self.port)
    }

    /// As an administrator does it, to the end.
    pub(crate) fn restart(&self) {
        self.control(&["-m", "fast", "-w", "restart"]);
    }

    /// Stops it; nobody listens any more.
    pub(crate) fn stop(&self) {
        self.control(&["-m", "fast", "-w", "stop"]);
    }

    /// Starts it after [`Server::stop`].
    pub(crate) fn up(&self) {
        self.control(&["-w", "start"]);
    }

    /// Kills all of it; the next start recovers from the write-ahead log.
    pub(crate) fn crash(&self) {
        // Stopped, it starts no more processes.
        self.signal("-STOP");
        let mut ids = self.processes();
        self.signal("-KILL");
        while !ids.is_empty() {
            ids.retain(|id| is_running(id));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // A postmaster that nobody has waited for yet would count as running.
        for lock in ["data/postmaster.pid", &format!(".s.PGSQL.{}.lock", self.port)] {
            std::fs::remove_file(self.dir.join(lock)).unwrap();
        }
    }

    fn control(&self, args: &[&str]) {
        let mut command = as_postgres(self.bin.join("pg_ctl"));
        let output = command
            .current_dir("/")
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("-l")
            .arg(self.dir.join("server.log"))
            .args(args);
        // Its output is the new server's too: nobody may wait for the end of it.
        let status = output.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = self.log();
        assert!(status.success(), "{}", log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    }

    /// Lets all of it hang, until what it returns is dropped: connections stay, and nothing is
    /// answered.
    pub(crate) fn pause(&self) -> impl Drop + '_ {
        struct Paused<'s>(&'s Server);
        impl Drop for Paused<'_> {
            fn drop(&mut self) {
                self.0.signal("-CONT");
            }
        }
        self.signal("-STOP");
        Paused(self)
    }

    fn signal(&self, signal: &str) {
        let kill = |ids: &[String]| {
            let mut kill = Command::new("kill");
            kill.arg(signal).args(ids).stderr(Stdio::null()).status().unwrap().success()
        };
        let processes = self.processes();
        assert!(kill(&processes[..1]) || signal == "-KILL");
        // A child may have ended since it was listed.
        let _ = kill(&processes[1..]);
    }

    /// Ids of its processes, the postmaster first.
    fn processes(&self) -> Vec<String> {
        let file = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        let postmaster = file.lines().next().unwrap();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let ids = std::iter::once(postmaster).chain(children.split_whitespace());
        ids.map(ToOwned::to_owned).collect()
    }

    /// `pg_dump` or `pg_restore` as the superuser.
    pub(crate) fn run(&self, tool: &str, args: &[&str]) {
        let port = self.port.to_string();
        let output = Command::new(self.bin.join(tool))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What the server wrote down about itself.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("server.log")).unwrap()
    }
}

pub(crate) struct Database {
    pub(crate) server: &'static Server,
    pub(crate) name: String,
}

impl Database {
    fn make(&self) {
        self.server
            .admin("postgres")
            .batch_execute(&format!("CREATE DATABASE {0} OWNER veil", self.name))
            .unwrap();
    }

    pub(crate) fn url(&self) -> String {
        self.server.url("127.0.0.1", PASSWORD, &self.name)
    }

    /// Of a client that is told user and password apart.
    pub(crate) fn url_without_user(&self) -> String {
        format!("postgresql://127.0.0.1:{}/{}", self.server.port, self.name)
    }

    /// Changes the store behind everybody's back.
    pub(crate) fn sql(&self, sql: &str) {
        self.admin().batch_execute(sql).unwrap();
    }

    pub(crate) fn admin(&self) -> Client {
        self.server.admin(&self.name)
    }

    /// What the server wrote down about it.
    pub(crate) fn log(&self) -> String {
        let (log, mut is_own) = (self.server.log(), false);
        let own = log.split_inclusive('\n').filter(|line| {
            // The further lines of a statement begin with a tab.
            is_own =
                line.split(' ').next() == Some(&*self.name) || is_own && line.starts_with('\t');
            is_own
        });
        own.collect()
    }

    pub(crate) fn dump(&self, to: &Path) {
        self.server.run("pg_dump", &["-Fc", "-f", to.to_str().unwrap(), &self.name]);
    }

    /// Drops the database with everybody's connections, and makes it from a dump.
    pub(crate) fn restore(&self, from: &Path) {
        self.server
            .admin("postgres")
            .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .unwrap();
        self.make();
        self.server.run("pg_restore", &["-d", &self.name, from.to_str().unwrap()]);
    }
}

/// The newest server of Debian's layout, or the one that `pg_config` knows.
fn binaries() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin"));
    let mut found: Vec<PathBuf> = installed.filter(|bin| bin.join("initdb").exists()).collect();
    found.sort_by_key(|bin| {
        bin.parent()
            .and_then(Path::file_name)
            .and_then(|version| version.to_str()?.parse::<u32>().ok())
    });
    let named = || {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
            .filter(|bin| bin.join("initdb").exists())
    };
    found.pop().or_else(named).unwrap_or_else(|| {
        panic!("no PostgreSQL server is installed (Debian's package: postgresql)")
    })
}

/// Whether a process has not ended; one that nobody has waited for has.
fn is_running(id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// The server refuses root.
fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(program)
        .env("HOME", "/")
        .env_remove("TMPDIR");
    command
}
