// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce module exec`.

use anyhow::Result;
use ferroce_kmod::exec::{exec, stand_in_names, End};
use ferroce_kmod::Error;

use super::args;
use super::text::{plain, show};

pub fn run(args: &args::Exec) -> Result<i32> {
    let Some(file) = &args.file else {
        let names: String = stand_in_names().map(|name| format!("{name}\n")).collect();
        show(&names)?;
        return Ok(0);
    };
    if let Some(second) = args.params.iter().find(|p| is_file(p)) {
        return Err(Error::Usage(format!(
            "exec runs one module, and {second} is a second one: what {} takes from other modules \
             has no stand-ins",
            file.display()
        ))
        .into());
    }
    let params: Vec<_> = args.params.iter().map(|p| super::parameter(p)).collect();
    let outcome = match exec(file, &params) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("ferroce: {}: {error}", file.display());
            return Ok(1);
        }
    };
    let lines: String = outcome
        .log
        .iter()
        .map(|line| format!("{}\n", plain(&line.text)))
        .collect();
    show(&lines)?;
    let trouble = match (outcome.end, outcome.init) {
        (End::Whole, Some(status @ ..=-1)) => {
            let reason = std::io::Error::from_raw_os_error(-status);
            format!("its init refused: {reason}")
        }
        (End::Whole, Some(_)) => return Ok(0),
        (End::Whole, None) => "it could not be started".to_owned(),
        (end, init) => {
            let place = if init.is_some() { "exit" } else { "init" };
            match end {
                End::SystemCall => format!("its {place} made a system call, and was ended"),
                End::Time => format!("its {place} used up its time, and was ended"),
                End::Signal(signal) => format!("its {place} crashed, by signal {signal}"),
                End::Whole => unreachable!("it is the first of the cases above"),
            }
        }
    };
    eprintln!("ferroce: {trouble}");
    Ok(1)
}

/// Whether a word that should be a parameter is a module's file.
fn is_file(word: &str) -> bool {
    let endings = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];
    !word.contains('=') && endings.iter().any(|ending| word.ends_with(ending))
}
