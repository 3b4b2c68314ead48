//! Where a dump comes from, as it is written on the command line: `FILE`, `FILE@ADDRESS`, or several with commas between them.

use crate::cli::number;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// One file of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The file.
    pub(crate) path: PathBuf,
    /// The physical address of its first byte; none where the file knows, or it is 0.
    pub(crate) base: Option<u64>,
}

impl Source {
    /// The files of the word `text`; `base` is for the one that has no address of its own.
    pub(crate) fn parse(text: &str, base: Option<u64>) -> Result<Vec<Self>> {
        // A name may contain anything, so one that there is is one.
        let sources = if Path::new(text).exists() {
            vec![Self { path: text.into(), base: None }]
        } else {
            text.split(',').map(Self::parse_one).collect::<Result<_>>()?
        };
        let mut sources: Vec<_> = sources;
        if let Some(base) = base {
            let mut without: Vec<_> = sources.iter_mut().filter(|source| source.base.is_none()).collect();
            ensure!(without.len() == 1, "--base: it is for one file without an address of its own");
            without[0].base = Some(base);
        }
        Ok(sources)
    }

    fn parse_one(text: &str) -> Result<Self> {
        let source = match text.rsplit_once('@') {
            Some((path, address)) if !Path::new(text).exists() => {
                let base = number::parse(address).map_err(anyhow::Error::msg);
                let base = base.with_context(|| format!("the address in {text}"))?;
                Self { path: path.into(), base: Some(base) }
            }
            _ => Self { path: text.into(), base: None },
        };
        ensure!(!source.path.as_os_str().is_empty(), "a dump has no name");
        Ok(source)
    }
}
