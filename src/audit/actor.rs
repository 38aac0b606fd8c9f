//! Who runs a command, as the operating system says.

/// `user@host`. The environment has no say: anyone may set it.
pub(super) fn name() -> String {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = user(&users, uid).map_or_else(|| format!("uid {uid}"), str::to_owned);
    let system = rustix::system::uname();
    format!("{user}@{}", system.nodename().to_string_lossy())
}

/// The name of a user id in the text of a passwd file.
fn user(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_id() {
        let users = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nbroken\n";
        assert_eq!((user(users, 0), user(users, 1000)), (Some("root"), Some("ada")));
        assert_eq!(user(users, 7), None);
        assert!(name().contains('@'));
    }
}
