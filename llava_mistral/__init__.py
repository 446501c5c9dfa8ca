"""From raw data to a published, measured vision-language model: the code behind the command `llava-mistral`."""
