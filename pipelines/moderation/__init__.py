"""Prompt rules: a list-based first line against prompts that the usage policy forbids."""

from pipelines.moderation.rules import PromptRules, RuleMatch

__all__ = ["PromptRules", "RuleMatch"]
