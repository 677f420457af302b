// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A kind of kernel to test with.
#[derive(Debug, Clone, Copy)]
pub struct Flavor {
    pub name: &'static str,
    pub args: &'static [&'static str],
    /// What its build is told beside.
    pub build_args: &'static [&'static str],
    /// Whether its tests run only on request, because its build takes long.
    pub on_request: bool,
}

pub const UML: Flavor = Flavor {
    name: "uml",
    args: &[],
    build_args: &[],
    on_request: false,
};
pub const DEBUG: Flavor = Flavor {
    name: "uml-debug",
    args: &["--debug"],
    build_args: &[],
    on_request: false,
};
pub const QEMU: Flavor = Flavor {
    name: "qemu",
    args: &["--backend", "qemu"],
    build_args: &[],
    on_request: false,
};
pub const QEMU_DEBUG: Flavor = Flavor {
    name: "qemu-debug",
    args: &["--backend", "qemu", "--debug"],
    build_args: &[],
    on_request: true,
};

/// The older series of Linux that the driver is for: the others build the newest.
pub const OLDER: Flavor = Flavor {
    name: "uml-7.2",
    args: &["--kernel", "7.2"],
    ..UML
};

pub const DEBIAN: Flavor = Flavor {
    name: "debian",
    args: &["--kernel", "debian"],
    build_args: &["--driver"],
    on_request: false,
};

/// The same for the tests of the device, which take an hour there, where each instruction is emulated.
pub const DEBIAN_DEVICE: Flavor = Flavor {
    name: "debian-device",
    on_request: true,
    ..DEBIAN
};

/// A named test.
pub type Test = (&'static str, fn(&Flavor));

/// The argument with which this program serves a folder's files.
pub const SERVE: &str = "serve-files";

impl Flavor {
    /// Builds it, showing progress.
    pub fn build(&self) -> bool {
        let status = ferroce()
            .args(["lab", "build", "--verbs", "--programs"])
            .args(self.args)
            .args(self.build_args)
            .status();
        status.expect("the program starts").success()
    }

    /// `ferroce lab run` with options, up to the command.
    pub fn lab(&self, options: &[&str]) -> Command {
        let mut command = ferroce();
        command
            .args(["lab", "run"])
            .args(self.args)
            .args(options)
            .arg("--")
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script in a guest.
    pub fn sh(&self, script: &str) -> Ran {
        ran(self.lab(&[]).args(["sh", "-c", script]))
    }
}

/// The program, as a user would start it.
pub fn ferroce() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ferroce"))
}

/// The modules' sources.
pub fn kernel_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../kernel")
        .canonicalize()
        .expect("the sources are there")
}

/// Whether tests are to take long, and try all there is.
pub fn long() -> bool {
    std::env::var_os("FERROCE_LONG").is_some()
}

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn ran(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program starts");
    Ran {
        status: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

impl Ran {
    #[track_caller]
    pub fn ends_with(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "no {text:?} in {self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in {self:#?}");
        self
    }
}

/// Serves the files of a folder over HTTP: `serve-files DIR PORT-FILE`.
pub fn serve(args: &[String]) {
    let [dir, port_file] = args else {
        panic!("two arguments")
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::fs::write(port_file, port.to_string()).expect("the port file is writable");
    for stream in listener.incoming() {
        let _ = answer(stream.expect("a connection"), Path::new(dir));
    }
}

fn answer(mut stream: std::net::TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let name = request
        .split(' ')
        .nth(1)
        .unwrap_or("/")
        .rsplit('/')
        .next()
        .unwrap_or_default();
    match std::fs::read(dir.join(name)) {
        Ok(body) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )?;
            stream.write_all(&body)
        }
        Err(_) => write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ),
    }
}
