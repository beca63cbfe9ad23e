//! Certificates and kubeconfigs of a cluster, all from one authority.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testnet::{Stop, finish};

use crate::failed;

/// A folder with the authority, the key of the service accounts' tokens, and certificates.
#[derive(Debug)]
pub(crate) struct Certificates {
    dir: PathBuf,
    server: String,
}

impl Certificates {
    /// A new authority; `server` is where its kubeconfigs lead.
    pub(crate) fn new(dir: &Path, server: &str) -> Result<Self, Stop> {
        std::fs::create_dir_all(dir)?;
        let own = Self { dir: dir.to_owned(), server: server.to_owned() };
        own.key("ca")?;
        own.openssl(
            "req -x509 -new -key ca.key -subj /CN=test-ca -days 10 -out ca.crt \
             -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,digitalSignature",
        )?;
        own.openssl("genrsa -out sa.key 2048")?;
        own.openssl("rsa -in sa.key -pubout -out sa.pub")?;
        Ok(own)
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    /// Makes `<name>.crt` and `<name>.key`: for a user, with a group, or for a server of these names.
    pub(crate) fn issue(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        names: &[&str],
    ) -> Result<(), Stop> {
        self.key(name)?;
        let mut extensions = "basicConstraints=CA:false\nkeyUsage=digitalSignature,keyEncipherment\n\
                              extendedKeyUsage=serverAuth,clientAuth\n"
            .to_owned();
        if !names.is_empty() {
            extensions.push_str(&format!("subjectAltName={}\n", names.join(",")));
        }
        std::fs::write(self.path(&format!("{name}.ext")), extensions)?;
        let group = group.map(|group| format!("/O={group}")).unwrap_or_default();
        self.openssl(&format!("req -new -key {name}.key -subj {group}/CN={user} -out {name}.csr"))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 10 -extfile {name}.ext -out {name}.crt"
        ))
    }

    /// The same for a user, with `<name>.kubeconfig`.
    pub(crate) fn user(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        names: &[&str],
    ) -> Result<(), Stop> {
        self.issue(name, user, group, names)?;
        std::fs::write(self.path(&format!("{name}.kubeconfig")), self.kubeconfig(name)?.to_string())?;
        Ok(())
    }

    /// How a user reaches the server; the certificates are in it.
    pub(crate) fn kubeconfig(&self, name: &str) -> Result<Value, Stop> {
        let data = |file: String| -> Result<String, Stop> { Ok(base64(&std::fs::read(self.path(&file))?)) };
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": {
                "server": self.server, "certificate-authority-data": data("ca.crt".to_owned())?,
            } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "users": [{ "name": "u", "user": {
                "client-certificate-data": data(format!("{name}.crt"))?,
                "client-key-data": data(format!("{name}.key"))?,
            } }],
        }))
    }

    fn key(&self, name: &str) -> Result<(), Stop> {
        self.openssl(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"))
    }

    fn openssl(&self, arguments: &str) -> Result<(), Stop> {
        let mut command = Command::new("openssl");
        let output = finish(command.args(arguments.split_whitespace()).current_dir(&self.dir))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(format!("openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// Encodes bytes in base64 (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_of_the_specification() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
