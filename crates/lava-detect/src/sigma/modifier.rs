//! What stands behind a field's name: `CommandLine|contains|all`.

use super::error::{Code, SigmaError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    Equals,
    Contains,
    StartsWith,
    EndsWith,
    Re,
    Cidr,
    Exists,
    Number(Order),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// UTF-16, as Windows writes texts into what it encodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wide {
    Little,
    Big,
    /// Little-endian, with a byte order mark.
    Marked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base64 {
    Whole,
    /// As part of something longer: three ways.
    Offset,
}

/// What the modifiers say.
#[derive(Clone, Debug)]
pub(super) struct Modifiers {
    pub(super) how: How,
    pub(super) all: bool,
    pub(super) negated: bool,
    pub(super) cased: bool,
    pub(super) multi_line: bool,
    pub(super) dot_all: bool,
    pub(super) ignore_case: bool,
    pub(super) windash: bool,
    pub(super) reference: bool,
    pub(super) wide: Option<Wide>,
    pub(super) base64: Option<Base64>,
}

const NONE: Modifiers = Modifiers {
    how: How::Equals,
    all: false,
    negated: false,
    cased: false,
    multi_line: false,
    dot_all: false,
    ignore_case: false,
    windash: false,
    reference: false,
    wide: None,
    base64: None,
};

pub(super) fn parse(key: &str, line: usize) -> Result<Modifiers, SigmaError> {
    let mut out = NONE;
    for modifier in key.split('|').skip(1) {
        out.add(modifier, line)?;
    }
    let encodes = out.wide.is_some() || out.base64.is_some();
    let text = matches!(out.how, How::Equals | How::Contains | How::StartsWith | How::EndsWith);
    if ((encodes || out.windash || out.reference) && !text) || (out.reference && (encodes || out.windash)) {
        let message = format!("`{}`: these modifiers cannot be combined", key.escape_debug());
        return Err(SigmaError::new(Code::UnknownModifier, line, message));
    }
    Ok(out)
}

impl Modifiers {
    fn add(&mut self, modifier: &str, line: usize) -> Result<(), SigmaError> {
        let how = match modifier {
            // A regular expression is looked for anywhere anyway.
            "contains" if self.how == How::Re => return Ok(()),
            "contains" => How::Contains,
            "startswith" => How::StartsWith,
            "endswith" => How::EndsWith,
            "re" => How::Re,
            "cidr" => How::Cidr,
            "exists" => How::Exists,
            "lt" => How::Number(Order::Less),
            "lte" => How::Number(Order::AtMost),
            "gt" => How::Number(Order::More),
            "gte" => How::Number(Order::AtLeast),
            _ => return self.flag(modifier, line),
        };
        if self.how != How::Equals {
            let message = format!("`{modifier}` cannot be combined with the modifier before it");
            return Err(SigmaError::new(Code::UnknownModifier, line, message));
        }
        self.how = how;
        Ok(())
    }

    fn flag(&mut self, modifier: &str, line: usize) -> Result<(), SigmaError> {
        match modifier {
            "i" | "ignorecase" if self.how == How::Re => self.ignore_case = true,
            "m" | "multiline" if self.how == How::Re => self.multi_line = true,
            "s" | "dotall" if self.how == How::Re => self.dot_all = true,
            "all" => self.all = true,
            "neq" => self.negated = true,
            "cased" => self.cased = true,
            "windash" => self.windash = true,
            "fieldref" => self.reference = true,
            "base64" => self.base64 = Some(Base64::Whole),
            "base64offset" => self.base64 = Some(Base64::Offset),
            "wide" | "utf16le" => self.wide = Some(Wide::Little),
            "utf16be" => self.wide = Some(Wide::Big),
            "utf16" => self.wide = Some(Wide::Marked),
            "expand" => {
                let message = "`expand`: there is nothing here to put in the place of its %placeholders%";
                return Err(SigmaError::new(Code::Modifier, line, message));
            }
            "minute" | "hour" | "day" | "week" | "month" | "year" => {
                let message = format!("the modifier `{modifier}` is not supported: no field holds a time of day");
                return Err(SigmaError::new(Code::Modifier, line, message));
            }
            _ => {
                let message = format!("there is no modifier `{}`", modifier.escape_debug());
                return Err(SigmaError::new(Code::UnknownModifier, line, message));
            }
        }
        Ok(())
    }
}
