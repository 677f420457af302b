// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layouts stated in this crate against libibverbs' headers, with a C compiler.
//!
//! The public header is looked for where distributions put it, the private ones in the folders of the
//! environment variable `FERROCE_RDMA_CORE_INCLUDE` (separated by colons; `build/include` of a built
//! rdma-core is one). What is not there is not checked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::layout::Layout;
use super::{attributes, commands, device_memory, objects, private, qp, requests, verbs};

/// The layouts of the table of verbs and of an open device: in ABI 59 they depend on the release.
fn verbs_layouts(folders: &[&str]) -> &'static [Layout] {
    #[cfg(all(feature = "abi59", not(feature = "abi64")))]
    if !folders.iter().any(|folder| {
        std::fs::read_to_string(Path::new(folder).join("infiniband/driver.h"))
            .is_ok_and(|header| header.contains("ibv_cmd_query_port_speed"))
    }) {
        return super::before_62::LAYOUTS;
    }
    let _ = folders;
    verbs::LAYOUTS
}

/// A C program that compiles if the layouts are right.
fn assertions(includes: &[&str], layouts: &[&[Layout]]) -> String {
    let mut program = String::new();
    for include in includes {
        writeln!(program, "#include <{include}>").unwrap();
    }
    writeln!(program, "#include <stddef.h>").unwrap();
    for layout in layouts.iter().copied().flatten() {
        let name = layout.name;
        writeln!(
            program,
            r#"_Static_assert(sizeof({name}) == {}, "size of {name}");"#,
            layout.size
        )
        .unwrap();
        for (field, offset) in layout.fields {
            let field = field.trim_start_matches("r#");
            writeln!(
                program,
                r#"_Static_assert(offsetof({name}, {field}) == {offset}, "{name}.{field}");"#
            )
            .unwrap();
        }
    }
    program
}

/// Compiles a program. `None` if there is no compiler.
fn compile(program: &str, folders: &[&str]) -> Option<()> {
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-fsyntax-only", "-x", "c", "-"]);
    for folder in folders {
        command.arg(format!("-I{folder}"));
    }
    let mut compiler = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = compiler.stdin.take().unwrap();
    stdin.write_all(program.as_bytes()).unwrap();
    drop(stdin);
    let output = compiler.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(())
}

#[test]
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn public_structures_are_those_of_the_installed_header() {
    if !Path::new("/usr/include/infiniband/verbs.h").exists() {
        eprintln!("not checked: no /usr/include/infiniband/verbs.h");
        return;
    }
    let layouts = [
        objects::LAYOUTS,
        requests::LAYOUTS,
        attributes::LAYOUTS,
        device_memory::LAYOUTS,
    ];
    let program = assertions(&["infiniband/verbs.h"], &layouts);
    if compile(&program, &[]).is_none() {
        eprintln!("not checked: no C compiler");
    }
}

#[test]
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn private_structures_are_those_of_rdma_core() {
    let Ok(folders) = std::env::var("FERROCE_RDMA_CORE_INCLUDE") else {
        eprintln!("not checked: FERROCE_RDMA_CORE_INCLUDE is not set");
        return;
    };
    let folders: Vec<&str> = folders.split(':').collect();
    let layouts = [
        objects::LAYOUTS,
        requests::LAYOUTS,
        attributes::LAYOUTS,
        private::LAYOUTS,
        device_memory::LAYOUTS,
        qp::LAYOUTS,
        verbs_layouts(&folders),
    ];
    let includes = ["infiniband/driver.h", "infiniband/kern-abi.h"];
    let mut program = assertions(&includes, &layouts);
    for (name, size) in commands::COMMANDS {
        writeln!(
            program,
            r#"_Static_assert(sizeof({name}) == {size}, "{name}");"#
        )
        .unwrap();
    }
    assert_eq!(compile(&program, &folders), Some(()), "no C compiler");
}
