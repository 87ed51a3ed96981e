//! From what rooms tell to JSON texts.

use super::encode::{answer, flag, number, put, put_client, put_value, string};
use super::text::write_string;
use crate::proto::room::{Member, RoomPush};

/// Writes it, but for the brace at its end.
pub(super) fn put_room(push: &RoomPush<'_>, out: &mut Vec<u8>) {
    match *push {
        RoomPush::Join { channel, member } => {
            answer(out, "join", None);
            string(out, ",\"channel\":", channel);
            put(out, ",\"member\":");
            put_member(out, &member, true);
        }
        RoomPush::Leave { channel, member } => {
            answer(out, "leave", None);
            string(out, ",\"channel\":", channel);
            put(out, ",\"member\":");
            put_member(out, &member, false);
        }
        RoomPush::Counts { channel, clients, users, listed } => {
            answer(out, "presence", None);
            string(out, ",\"channel\":", channel);
            put_counts(out, clients, users);
            if listed {
                flag(out, ",\"listed\":", true);
            }
        }
        RoomPush::Presence { id, channel, clients, users, members } => {
            answer(out, "presence", id);
            string(out, ",\"channel\":", channel);
            put_roster(out, (clients, users), members);
        }
    }
}

/// Writes the JSON text of who has a channel by name, as HTTP has it.
pub fn encode_roster(
    channel: &str,
    counts: (usize, usize),
    members: &[Member<'_>],
    out: &mut Vec<u8>,
) {
    string(out, "{\"channel\":", channel);
    put_roster(out, counts, members);
    put(out, "}");
}

fn put_roster(out: &mut Vec<u8>, (clients, users): (usize, usize), members: &[Member<'_>]) {
    put_counts(out, clients, users);
    put(out, ",\"members\":[");
    for (at, member) in members.iter().enumerate() {
        put(out, if at == 0 { "" } else { "," });
        put_member(out, member, true);
    }
    put(out, "]");
}

fn put_counts(out: &mut Vec<u8>, clients: usize, users: usize) {
    number(out, ",\"clients\":", clients as u64);
    number(out, ",\"users\":", users as u64);
}

/// Of one who leaves only who it was.
fn put_member(out: &mut Vec<u8>, member: &Member<'_>, whole: bool) {
    put(out, "{\"client\":\"");
    put_client(out, member.client);
    put(out, "\",\"user\":");
    match member.user {
        Some(user) => write_string(user, out),
        None => put(out, "null"),
    }
    if whole {
        if let Some(info) = member.info {
            put(out, ",\"info\":");
            put_value(out, info);
        }
        number(out, ",\"since\":", member.since_ms);
    }
    put(out, "}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dialect::json::encode_push;
    use crate::proto::name::ClientId;
    use crate::proto::push::Push;

    #[test]
    fn what_rooms_tell_is_written_to_the_letter() {
        let channel = "room:1";
        let info = b"{\"name\":\n\"A\"}".as_slice();
        let ann = Member { client: ClientId(0), user: Some("a\"n"), info: Some(info), since_ms: 5 };
        let nobody = Member { client: ClientId(35), user: None, info: None, since_ms: 6 };
        let counts = |listed| RoomPush::Counts { channel, clients: 7, users: 3, listed };
        let members = [ann, nobody];
        let whole = [
            r#"{"client":"0000000000000","user":"a\"n","info":{"name":"A"},"since":5}"#,
            r#"{"client":"000000000000z","user":null,"since":6}"#,
        ];
        let list = format!("\"clients\":2,\"users\":1,\"members\":[{}]}}", whole.join(","));
        let cases = [
            (
                RoomPush::Join { channel, member: ann },
                format!(r#"{{"type":"join","channel":"room:1","member":{}}}"#, whole[0]),
            ),
            (
                RoomPush::Leave { channel, member: ann },
                r#"{"type":"leave","channel":"room:1","member":{"client":"0000000000000","user":"a\"n"}}"#
                    .to_owned(),
            ),
            (
                counts(false),
                r#"{"type":"presence","channel":"room:1","clients":7,"users":3}"#.to_owned(),
            ),
            (
                counts(true),
                r#"{"type":"presence","channel":"room:1","clients":7,"users":3,"listed":true}"#
                    .to_owned(),
            ),
            (
                RoomPush::Presence { id: Some(5), channel, clients: 2, users: 1, members: &members },
                format!(r#"{{"type":"presence","id":5,"channel":"room:1",{list}"#),
            ),
        ];
        for (push, expected) in cases {
            let mut text = Vec::new();
            encode_push(&Push::Room(push), &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
        let mut text = Vec::new();
        encode_roster(channel, (2, 1), &members, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), format!(r#"{{"channel":"room:1",{list}"#));
    }
}
