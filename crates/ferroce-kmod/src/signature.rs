// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signature at the end of a signed module
//! (Documentation/admin-guide/module-signing.rst, kernel/module/signing.c).

use cms::cert::IssuerAndSerialNumber;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use const_oid::db::DB;
use const_oid::ObjectIdentifier;
use der::asn1::{PrintableStringRef, Utf8StringRef};
use der::{Decode, Encode};
use serde::Serialize;
use x509_cert::name::Name;
use x509_cert::Certificate;

use crate::error::Malformed;

/// What a signed module ends with (include/uapi/linux/module_signature.h).
pub const MARKER: &[u8] = b"~Module signature appended~\n";

/// `struct module_signature` before the marker.
const TRAILER: usize = 12;
/// MODULE_SIGNATURE_TYPE_PKCS7.
const PKCS7: u8 = 2;

/// A signature, as far as it says who made it and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// What kind it is: PKCS#7.
    pub id: &'static str,
    /// The common name of who issued the signer's certificate, which for a
    /// kernel's own key is the signer.
    pub signer: Option<String>,
    /// What tells the signer's certificate from others: its serial number, or
    /// the identifier of its key.
    pub key: Vec<u8>,
    /// Which of the two that is.
    pub key_is_serial: bool,
    /// The digest, such as `sha256`.
    pub hash: String,
    /// The public-key algorithm, such as `rsaEncryption`.
    pub algorithm: String,
    /// The signature proper.
    #[serde(skip)]
    pub value: Vec<u8>,
    /// The name of the issuer as it is in the signature, to compare.
    #[serde(skip)]
    issuer: Vec<u8>,
}

/// A file, taken apart: the module, and the signature if there is one. The
/// error is of a signature that is none.
pub fn split(bytes: &[u8]) -> (&[u8], Result<Option<Signature>, Malformed>) {
    let Some(signed) = bytes.strip_suffix(MARKER) else {
        return (bytes, Ok(None));
    };
    match parts(signed) {
        Ok((module, id, message)) => (module, signature(id, message, module.len()).map(Some)),
        Err(error) => (bytes, Err(error)),
    }
}

/// The module, the kind of signature, and the signature.
fn parts(signed: &[u8]) -> Result<(&[u8], u8, &[u8]), Malformed> {
    let end = signed.len() as u64;
    let Some((rest, trailer)) = signed.split_last_chunk::<TRAILER>() else {
        let what = "the file is too short for the signature that it claims to have";
        return Err(Malformed::new(0, "struct module_signature", what));
    };
    let at = end - TRAILER as u64;
    let length = u32::from_be_bytes([trailer[8], trailer[9], trailer[10], trailer[11]]);
    let Some(start) = rest.len().checked_sub(length as usize) else {
        let what = format!(
            "a signature of {length} bytes is longer than the file: {} are left",
            rest.len()
        );
        return Err(Malformed::new(at + 8, "sig_len", what));
    };
    // mod_check_sig() in kernel/module_signature.c.
    if trailer[2] == PKCS7
        && [0, 1, 3, 4, 5, 6, 7]
            .iter()
            .any(|index| trailer[*index] != 0)
    {
        let what = "a PKCS#7 signature has all fields but type and length zero";
        return Err(Malformed::new(at, "struct module_signature", what)
            .says("module: PKCS#7 signature info has unexpected non-zero params"));
    }
    let (module, message) = rest.split_at(start);
    Ok((module, trailer[2], message))
}

fn signature(id: u8, message: &[u8], offset: usize) -> Result<Signature, Malformed> {
    let malformed = |what: String| Malformed::new(offset as u64, "PKCS#7 signature", what);
    if id != PKCS7 {
        return Err(malformed(format!("it is of type {id}, PKCS#7 has {PKCS7}"))
            .says("module: not signed with expected PKCS#7 message"));
    }
    let broken = |e: der::Error| malformed(format!("it does not parse: {e}"));
    let content = ContentInfo::from_der(message).map_err(broken)?;
    let data: SignedData = content.content.decode_as().map_err(broken)?;
    let Some(signer): Option<&SignerInfo> = data.signer_infos.0.iter().next() else {
        return Err(malformed("nobody signed it".to_owned()));
    };
    let (issuer, key, key_is_serial) = match &signer.sid {
        SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer,
            serial_number,
        }) => (Some(issuer), serial_number.as_bytes().to_vec(), true),
        SignerIdentifier::SubjectKeyIdentifier(id) => (None, id.0.as_bytes().to_vec(), false),
    };
    Ok(Signature {
        id: "PKCS#7",
        signer: issuer.and_then(common_name),
        key,
        key_is_serial,
        hash: name(&signer.digest_alg.oid),
        algorithm: name(&signer.signature_algorithm.oid),
        value: signer.signature.as_bytes().to_vec(),
        issuer: issuer.and_then(|i| i.to_der().ok()).unwrap_or_default(),
    })
}

/// The name that an algorithm goes by: `modinfo` and the kernel have `sha256`
/// where RFC 5912 has `id-sha256`.
fn name(oid: &ObjectIdentifier) -> String {
    match DB.by_oid(oid) {
        Some(name) => name.strip_prefix("id-").unwrap_or(name).to_owned(),
        None => oid.to_string(),
    }
}

fn common_name(name: &Name) -> Option<String> {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    let mut attributes = name.0.iter().flat_map(|rdn| rdn.0.iter());
    let value = &attributes.find(|a| a.oid == COMMON_NAME)?.value;
    let utf8 = value.decode_as::<Utf8StringRef>().map(|s| s.to_string());
    let text = utf8.or_else(|_| {
        value
            .decode_as::<PrintableStringRef>()
            .map(|s| s.to_string())
    });
    text.ok()
}

/// A certificate that a kernel trusts.
#[derive(Debug, Clone)]
pub struct Trusted {
    certificate: Box<Certificate>,
}

impl Trusted {
    /// Reads it from DER, as in `certs/signing_key.x509` of a build tree.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let certificate = Certificate::from_der(der).map_err(|e| e.to_string())?;
        Ok(Self {
            certificate: Box::new(certificate),
        })
    }

    /// Whether it is the signer's: by issuer and serial number.
    pub fn signed(&self, signature: &Signature) -> bool {
        let certificate = &self.certificate.tbs_certificate;
        signature.key_is_serial
            && certificate.serial_number.as_bytes() == signature.key
            && certificate.issuer.to_der().ok().as_deref() == Some(&signature.issuer)
    }
}

/// Bytes as `modinfo` writes them: `1A:2B`.
pub fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    digits.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsigned_file_is_as_it_was() {
        assert_eq!(split(b"abc"), (&b"abc"[..], Ok(None)));
    }

    #[test]
    fn a_signature_longer_than_the_file_is_refused_and_named() {
        let mut file = b"module".to_vec();
        file.extend([0, 0, PKCS7, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        file.extend(MARKER);
        let error = split(&file).1.unwrap_err();
        assert_eq!((error.offset, error.field.as_str()), (14, "sig_len"));
        assert!(split(MARKER).1.is_err());
    }

    #[test]
    fn a_signature_that_is_no_pkcs7_is_refused_where_it_is() {
        let mut file = b"moduleNOT DER".to_vec();
        file.extend([0, 0, PKCS7, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        file.extend(MARKER);
        let (module, error) = split(&file);
        assert_eq!(module, b"module");
        assert_eq!(error.unwrap_err().offset, 6);
    }
}
