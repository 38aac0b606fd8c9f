//! Records as the sidecar writes them, for benches that read: `process_tokens CONFIG SCHEMA`
//! protects the lines of standard input under keys of this process (suite 1), which commands do
//! not make.

use std::io::{self, BufRead as _, BufWriter, Write as _};

use anyhow::Context as _;
use veilstream::config;
use veilstream::keys::{self, KeySource as _};
use veilstream::protect::Protector;
use veilstream::registry;
use veilstream_engine::record::Record;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let config = arguments.next().context("name a configuration")?;
    let config = config::load_config(config.as_ref())?;
    let (registry, _) = registry::open_configured(&config.schemas)
        .map_err(|faults| veilstream::exit::faults_error(&faults))?;
    let set = registry.current();
    let (keys, _) = keys::open_managed(&config.keys, None)?;
    keys.prepare(&set)?;
    let name = arguments.next().context("name a schema")?;
    let schema = set.get(&name).context("there is no such schema")?.clone();
    let set = veilstream_engine::compile::SchemaSet::new(vec![schema])
        .map_err(|faults| veilstream::exit::faults_error(&faults))?;
    let mut protector = Protector::new(set.into(), keys.keyring());
    let mut out = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let line = line?;
        let value = Some(line.as_bytes());
        let record = Record { value, now: keys::now(), ..Record::default() };
        if let Err(reject) = protector.protect(&record, std::iter::empty(), &*keys)? {
            anyhow::bail!("a record was rejected: {reject}");
        }
        out.write_all(&protector.output().value)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
