// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cloud images: those of Debian and Ubuntu, fetched and checked against the published checksums, or one that
//! is given.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Sha256, Sha512};

use crate::error::{Error, Result};
use crate::fetch::http;
use crate::progress::note;

/// What a machine's disk is made over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A file.
    File(PathBuf),
    /// One to be fetched.
    Cloud(&'static Cloud),
}

/// An image on offer.
#[derive(Debug, PartialEq, Eq)]
pub struct Cloud {
    name: &'static str,
    /// Where it is.
    folder: &'static str,
    file: &'static str,
    /// The file beside it with the checksums.
    sums: &'static str,
    hash: Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha512,
}

const CLOUDS: [Cloud; 2] = [
    Cloud {
        name: "debian",
        // With the kernel of the backports, which takes the driver; and not the kernel for clouds, which
        // has no 9p and no RDMA.
        folder: "https://cloud.debian.org/images/cloud/trixie-backports/latest",
        file: "debian-13-backports-generic-amd64.qcow2",
        sums: "SHA512SUMS",
        hash: Hash::Sha512,
    },
    Cloud {
        name: "ubuntu",
        folder: "https://cloud-images.ubuntu.com/releases/noble/release",
        file: "ubuntu-24.04-server-cloudimg-amd64.img",
        sums: "SHA256SUMS",
        hash: Hash::Sha256,
    },
];

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match CLOUDS.iter().find(|cloud| cloud.name == text) {
            Some(cloud) => Ok(Self::Cloud(cloud)),
            None if text.contains(['/', '.']) || Path::new(text).exists() => {
                Ok(Self::File(text.into()))
            }
            None => Err("it is debian, ubuntu, or the file of an image".to_owned()),
        }
    }
}

impl Cloud {
    /// The file, if it was fetched before, or newly fetched.
    pub fn ensure(&self, images: &Path) -> Result<PathBuf> {
        let place = images.join(self.file);
        match place.exists() {
            true => Ok(place),
            false => self.fetch(self.folder, images),
        }
    }

    fn fetch(&self, folder: &str, images: &Path) -> Result<PathBuf> {
        let place = images.join(self.file);
        let refused = |url: &str, reason: &str| {
            Error::Usage(format!(
                "the cloud image of {} cannot be fetched from {url}: {reason}. Where this machine has no way to \
                 it, fetch {folder}/{file} elsewhere, and give it: --image {file}",
                self.name,
                file = self.file
            ))
        };
        note("Looking", &format!("for {} at {folder}", self.file));
        let url = format!("{folder}/{}", self.sums);
        let sums = http::text(&url).map_err(|e| refused(&url, &e.to_string()))?;
        let expected = sum_of(&sums, self.file)
            .ok_or_else(|| refused(&url, &format!("it does not tell of {}", self.file)))?;
        fs::create_dir_all(images).map_err(Error::file("create", images))?;
        let staging = tempfile::Builder::new()
            .prefix(".fetching-")
            .tempdir_in(images)
            .map_err(Error::file("create a folder in", images))?;
        let fetched = staging.path().join(self.file);
        let url = format!("{folder}/{}", self.file);
        let found = match self.hash {
            Hash::Sha256 => http::file::<Sha256>(&url, &fetched)?,
            Hash::Sha512 => http::file::<Sha512>(&url, &fetched)?,
        };
        let found = found.map_err(|e| refused(&url, &e.to_string()))?;
        if found != expected {
            return Err(Error::Digest {
                file: self.file.to_owned(),
                origin: folder.to_owned(),
                expected,
                found,
            });
        }
        fs::rename(&fetched, &place).map_err(Error::file("create", &place))?;
        Ok(place)
    }
}

/// The checksum of a file in a list such as sha256sum(1) writes.
fn sum_of(sums: &str, file: &str) -> Option<String> {
    sums.lines().find_map(|line| {
        let (sum, name) = line.split_once(' ')?;
        // A star is for files that were read as they are.
        (name.trim_start_matches([' ', '*']) == file).then(|| sum.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use sha2::Digest;

    use super::*;
    use crate::cache::hex;

    #[test]
    fn an_image_is_known_by_name_or_is_a_file() {
        let parse = |text: &str| text.parse::<Image>();
        assert_eq!(parse("debian"), Ok(Image::Cloud(&CLOUDS[0])));
        assert_eq!(parse("ubuntu"), Ok(Image::Cloud(&CLOUDS[1])));
        assert_eq!(parse("./ubuntu"), Ok(Image::File("./ubuntu".into())));
        assert_eq!(parse("x.img"), Ok(Image::File("x.img".into())));
        assert!(parse("fedora").is_err());
    }

    #[test]
    fn checksums_are_found_by_the_whole_name() {
        let sums = "AA *x.img\nbb  x.img.zsync\ncc  y.img\n";
        assert_eq!(sum_of(sums, "x.img").as_deref(), Some("aa"));
        assert_eq!(sum_of(sums, "y.img").as_deref(), Some("cc"));
        assert_eq!(sum_of(sums, "img"), None);
    }

    /// Serves two files, one after the other, and returns the address.
    fn serve(bodies: [String; 2]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (stream, body) in listener.incoming().zip(bodies) {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                // Up to the end of what is asked.
                lines
                    .map_while(Result::ok)
                    .take_while(|l| !l.is_empty())
                    .for_each(drop);
                let head = "HTTP/1.1 200 OK\r\nConnection: close";
                write!(
                    stream,
                    "{head}\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        address
    }

    #[test]
    fn an_image_is_kept_only_if_it_is_what_was_published() {
        let dir = tempfile::tempdir().unwrap();
        let cloud = &CLOUDS[0];
        let sum = hex(&Sha512::digest("an image"));
        let sums = format!("{sum}  {}\n", cloud.file);
        let damaged = serve([sums.clone(), "an imagE".to_owned()]);
        let error = cloud.fetch(&damaged, dir.path()).unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let whole = serve([sums, "an image".to_owned()]);
        let place = cloud.fetch(&whole, dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "an image");
        assert_eq!(cloud.ensure(dir.path()).unwrap(), place);
    }

    #[test]
    fn without_a_way_to_the_server_it_is_said_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = CLOUDS[1]
            .fetch(&address, dir.path())
            .unwrap_err()
            .to_string();
        let help = format!("--image {}", CLOUDS[1].file);
        assert!(
            error.contains(&help) && error.contains("SHA256SUMS"),
            "{error}"
        );
    }
}
