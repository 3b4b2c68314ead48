//! How much code slat is, once it is linked into the hypervisor.
//!
//! What counts: the sizes of the symbols in `.text` that the crate defines, wherever they were instantiated: functions,
//! closures, implementations of traits for its types, drop glue of its types. A function that was inlined counts where
//! it ended up, whoever wrote it.

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SectionIndex};
use std::collections::BTreeMap;
use std::fmt;

/// The code of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeSize {
    /// Bytes of the crate's functions.
    pub(crate) bytes: u64,
    /// Number of the crate's functions.
    pub(crate) functions: usize,
    /// Bytes of `.text` as a whole.
    pub(crate) text: u64,
}

impl fmt::Display for CodeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, functions, text } = self;
        write!(f, "{bytes} bytes in {functions} functions, of {text} bytes of .text in all")
    }
}

/// Measures the part of the ELF file `elf` that the crate `name` defines.
pub(crate) fn of_crate(elf: &[u8], name: &str) -> Result<CodeSize> {
    let file = object::File::parse(elf).context("the program is not an ELF file")?;
    let text = file.section_by_name(".text").context("the program has no .text")?;
    // By address: one function may go by several names.
    let mut functions: BTreeMap<u64, u64> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| is_code(symbol, text.index())) {
        let named = symbol.name().context("a symbol has no name")?;
        if is_defined_by(&format!("{:#}", rustc_demangle::demangle(named)), name) {
            let size = functions.entry(symbol.address()).or_default();
            *size = symbol.size().max(*size);
        }
    }
    ensure!(!functions.is_empty(), "the program has no function of {name}; was it stripped?");
    Ok(CodeSize { bytes: functions.values().sum(), functions: functions.len(), text: text.size() })
}

fn is_code<'data>(symbol: &impl ObjectSymbol<'data>, text: SectionIndex) -> bool {
    symbol.section_index() == Some(text) && symbol.size() > 0
}

/// Whether the crate `name` defines the function of this demangled path, in the legacy or in the v0 form.
fn is_defined_by(path: &str, name: &str) -> bool {
    let glue = path.strip_prefix("core::ptr::drop_in_place").map(|of| of.trim_start_matches("::"));
    let path = glue.unwrap_or(path);
    // `<crate::Type as other::Trait>::function` begins with the type.
    let path = path.trim_start_matches('<');
    path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"))
}

#[cfg(test)]
mod tests;
